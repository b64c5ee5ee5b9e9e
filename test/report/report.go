// Package report is the JSON that demo, torture and bench leave behind. Every
// figure in it was measured in the run that wrote it.
package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Report is one run.
type Report struct {
	Kernel       string   `json:"kernel"`
	Accel        string   `json:"accel"` // tcg or kvm
	Volumes      int      `json:"volumes"`
	AckedWrites  int      `json:"acked_writes"`
	LostWrites   int      `json:"lost_writes"`
	CorruptReads int      `json:"corrupt_reads"`
	IOErrors     int      `json:"io_errors"`
	ManualSteps  int      `json:"manual_steps"`
	Outages      []Outage `json:"outages"`
	Passed       bool     `json:"passed"`
}

// Outage is one fault. Times are seconds; InjectedS and HealedS count from the
// start of the run.
type Outage struct {
	Kind      string  `json:"kind"` // cable, refused, power …
	InjectedS float64 `json:"injected_s"`
	HealedS   float64 `json:"healed_s"`
	// ResumedAfterHealS is when the last of the volumes had its first write
	// acknowledged after healing.
	ResumedAfterHealS float64 `json:"io_resumed_after_heal_s"`
	// WaitedS is the longest that a volume's I/O waited.
	WaitedS float64 `json:"io_waited_s"`
	Guard   string  `json:"guard"`
	OK      bool    `json:"ok"`
}

// Judge sets Passed: nothing lost, wrong, failed or done by hand, and every
// outage survived.
func (r *Report) Judge() {
	r.Passed = r.AckedWrites > 0 && r.LostWrites == 0 && r.CorruptReads == 0 && r.IOErrors == 0 && r.ManualSteps == 0
	for _, o := range r.Outages {
		r.Passed = r.Passed && o.OK
	}
}

// Write puts the report at path.
func (r *Report) Write(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}
