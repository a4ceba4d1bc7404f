package sigstore

// AllWords is what a Tally says for every reason, thing and kind of signer.
func AllWords() []string {
	var all []string
	for r := NoneFound; r <= NotAccepted; r++ {
		for _, what := range []thing{signature, attestation} {
			for _, keyless := range []bool{false, true} {
				all = append(all, Tally{Found: 1 << 20, count: 1 << 20, refusal: refusal{r, string(make([]byte, 500))}, thing: what, keyless: keyless}.Why())
			}
		}
	}
	return all
}

// Reason is the most telling one among the pieces that were refused. It says nothing about those accepted.
func (t Tally) Reason() Reason { return t.refusal.reason }
