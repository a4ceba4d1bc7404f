package machine

// containerdUnit is the one that containerd's own releases hold, but for what
// this machine's root may not do.
const containerdUnit = `[Unit]
Description=containerd container runtime
After=network.target local-fs.target
[Service]
ExecStart=/usr/bin/containerd
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
[Install]
WantedBy=multi-user.target
`

// containerdConfig: restrict_oom_score_adj lets pods start where root lacks
// CAP_SYS_RESOURCE; the cgroups are cgroupfs's, as kubelet is told.
const containerdConfig = `version = 4
disabled_plugins = [
  'io.containerd.nri.v1.nri', 'io.containerd.internal.v1.tracing', 'io.containerd.tracing.processor.v1.otlp',
  'io.containerd.snapshotter.v1.btrfs', 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.snapshotter.v1.zfs',
  'io.containerd.snapshotter.v1.blockfile', 'io.containerd.snapshotter.v1.erofs', 'io.containerd.differ.v1.erofs',
]
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '%s'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '/etc/containerd/certs.d'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  cdi_spec_dirs = []
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
`

const network = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "machine%d", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.202.%d.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
  ]
}
`

// kubeletUnit and kubeadmDropIn are those of the kubelet and kubeadm packages.
const kubeletUnit = `[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target
[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=1
[Install]
WantedBy=multi-user.target
`

const kubeadmDropIn = `[Service]
Environment="KUBELET_KUBECONFIG_ARGS=%s"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
`

const gkeKubeletUnit = `[Unit]
Description=Kubernetes kubelet
Requires=network-online.target
After=network-online.target kube-node-configuration.service
[Service]
Restart=always
RestartSec=1
EnvironmentFile=/etc/default/kubelet
ExecStart=/home/kubernetes/bin/kubelet $KUBELET_OPTS
[Install]
WantedBy=multi-user.target
`

const gkeConfigurationUnit = `[Unit]
Description=Configure kubernetes node
Before=kubelet.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/cp /usr/share/gke/kubelet-config.yaml /home/kubernetes/kubelet-config.yaml
ExecStart=/bin/cp /usr/share/gke/kubelet.env /etc/default/kubelet
[Install]
WantedBy=multi-user.target
`

// masked are units of a whole computer, which the machine is not.
const masked = `
systemd-journald-audit.socket systemd-tmpfiles-setup.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-clean.timer
systemd-tmpfiles-setup-dev-early.service systemd-initctl.socket systemd-update-utmp.service systemd-update-utmp-runlevel.service
systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket
systemd-modules-load.service systemd-sysctl.service systemd-networkd.service systemd-resolved.service systemd-timesyncd.service
systemd-remount-fs.service systemd-random-seed.service systemd-hwdb-update.service systemd-repart.service systemd-homed.service
systemd-binfmt.service systemd-firstboot.service systemd-sysusers.service systemd-pcrphase.service systemd-pcrphase-sysinit.service
systemd-machine-id-commit.service systemd-logind.service systemd-user-sessions.service systemd-ask-password-wall.path
systemd-ask-password-console.path ldconfig.service kmod-static-nodes.service dbus.service dbus.socket getty.target
dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount
sys-kernel-config.mount proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount tmp.mount swap.target`
