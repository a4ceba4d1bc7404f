package nodetest

import (
	"context"
	"sync"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// inNamespace refuses calls for another namespace, where none of the records are.
func inNamespace(ctx context.Context) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return errgrpc.ToGRPC(err)
	}
	if ns != Namespace {
		return status.Errorf(codes.NotFound, "namespace %q", ns)
	}
	return nil
}

// exchange hands each event to those who subscribed before it, in order.
type exchange struct {
	mu   sync.Mutex
	subs map[*subscription]bool
}

type subscription struct {
	filter filters.Filter
	wake   chan struct{}
	queue  []*types.Envelope // guarded by exchange.mu
}

func (x *exchange) publish(namespace, topic string, event proto.Message) {
	packed, ok := event.(*anypb.Any)
	if !ok {
		var err error
		if packed, err = anypb.New(event); err != nil {
			panic(err) // only for a message that is no message
		}
	}
	e := &types.Envelope{Timestamp: timestamppb.Now(), Namespace: namespace, Topic: topic, Event: packed}
	x.mu.Lock()
	defer x.mu.Unlock()
	for s := range x.subs {
		if s.filter.Match(&events.Envelope{Namespace: namespace, Topic: topic, Event: packed}) {
			s.queue = append(s.queue, e)
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (x *exchange) subscribe(f filters.Filter) *subscription {
	s := &subscription{filter: f, wake: make(chan struct{}, 1)}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.subs == nil {
		x.subs = map[*subscription]bool{}
	}
	x.subs[s] = true
	return s
}

func (x *exchange) unsubscribe(s *subscription) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.subs, s)
}

func (x *exchange) take(s *subscription) []*types.Envelope {
	x.mu.Lock()
	defer x.mu.Unlock()
	q := s.queue
	s.queue = nil
	return q
}

// eventService is containerd's event service.
type eventService struct {
	eventsapi.UnimplementedEventsServer
	r *Runtime
}

func (s eventService) Publish(ctx context.Context, req *eventsapi.PublishRequest) (*emptypb.Empty, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.r.events.publish(ns, req.Topic, req.Event)
	return &emptypb.Empty{}, nil
}

func (s eventService) Subscribe(req *eventsapi.SubscribeRequest, stream eventsapi.Events_SubscribeServer) error {
	if hold := s.r.HoldSubscriptions; hold != nil {
		select {
		case <-hold:
		case <-stream.Context().Done():
			return nil
		}
	}
	f, err := filters.ParseAll(req.Filters...)
	if err != nil {
		return errgrpc.ToGRPC(err)
	}
	sub := s.r.events.subscribe(f)
	defer s.r.events.unsubscribe(sub)
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case <-sub.wake:
		}
		for _, e := range s.r.events.take(sub) {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}
