package driver

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-csi/holdfast/internal/volume"
	"github.com/holdfast-csi/holdfast/pkg/nvme"
)

// StorageClass keys of the connection. They travel in the VolumeContext under
// the same names, and one parser reads them on both sides.
const (
	paramCtrlLossTmo    = "ctrlLossTmo"
	paramReconnectDelay = "reconnectDelay"
	paramKeepAliveTmo   = "keepAliveTmo"
	paramFastIOFailTmo  = "fastIOFailTmo"
	paramNrIOQueues     = "nrIOQueues"
	paramNrWriteQueues  = "nrWriteQueues"
	paramNrPollQueues   = "nrPollQueues"
	paramQueueSize      = "queueSize"
	paramTOS            = "tos"
	paramHdrDigest      = "hdrDigest"
	paramDataDigest     = "dataDigest"
	paramDisableSQFlow  = "disableSQFlow"
	paramEager          = "eagerReconnect"
)

// NVMEConnectionParams are the connection options of a StorageClass. Zero means
// "leave it to the kernel" for all but the first two.
type NVMEConnectionParams struct {
	CtrlLossTmo    int // seconds; -1 for ever
	ReconnectDelay int // seconds, at least 1
	KeepAliveTmo   int // seconds
	FastIOFailTmo  int // seconds
	NrIOQueues     int
	NrWriteQueues  int
	NrPollQueues   int
	QueueSize      int
	TOS            int
	HdrDigest      bool
	DataDigest     bool
	DisableSQFlow  bool
	// EagerReconnect lets the watch hold the reconnect delay at one second.
	EagerReconnect bool
}

// Limits of the kernel (drivers/nvme/host/fabrics.c and tcp.c, Linux 6.1 and
// 6.12). It reads numbers as int (match_int); multiplies the keep-alive by 1000
// into 32 bits, and the delays by HZ, which is at most 1000, in 32 bits too; and
// rounds ctrl_loss_tmo/reconnect_delay up in int arithmetic.
const (
	maxInt32     = math.MaxInt32
	maxSeconds   = maxInt32 / 1000 // of what is multiplied by 1000 or HZ: 24 days
	minQueueSize = 16              // NVMF_MIN_QUEUE_SIZE
	maxQueueSize = 1024            // NVMF_MAX_QUEUE_SIZE
	maxQueues    = 65535           // I/O queues of a controller, NVMe Base 2.0, 3.3.2.1
	maxTOS       = 255
)

type numberRule struct {
	key    string
	lo, hi int
	field  func(*NVMEConnectionParams) *int
}

var numberRules = []numberRule{
	{paramCtrlLossTmo, -1, maxInt32, func(p *NVMEConnectionParams) *int { return &p.CtrlLossTmo }},
	{paramReconnectDelay, 1, maxSeconds, func(p *NVMEConnectionParams) *int { return &p.ReconnectDelay }},
	{paramKeepAliveTmo, 0, maxSeconds, func(p *NVMEConnectionParams) *int { return &p.KeepAliveTmo }},
	{paramFastIOFailTmo, 0, maxSeconds, func(p *NVMEConnectionParams) *int { return &p.FastIOFailTmo }},
	{paramNrIOQueues, 0, maxQueues, func(p *NVMEConnectionParams) *int { return &p.NrIOQueues }},
	{paramNrWriteQueues, 0, maxQueues, func(p *NVMEConnectionParams) *int { return &p.NrWriteQueues }},
	{paramNrPollQueues, 0, maxQueues, func(p *NVMEConnectionParams) *int { return &p.NrPollQueues }},
	{paramQueueSize, 0, maxQueueSize, func(p *NVMEConnectionParams) *int { return &p.QueueSize }},
	{paramTOS, 0, maxTOS, func(p *NVMEConnectionParams) *int { return &p.TOS }},
}

type switchRule struct {
	key   string
	field func(*NVMEConnectionParams) *bool
}

var switchRules = []switchRule{
	{paramHdrDigest, func(p *NVMEConnectionParams) *bool { return &p.HdrDigest }},
	{paramDataDigest, func(p *NVMEConnectionParams) *bool { return &p.DataDigest }},
	{paramDisableSQFlow, func(p *NVMEConnectionParams) *bool { return &p.DisableSQFlow }},
	{paramEager, func(p *NVMEConnectionParams) *bool { return &p.EagerReconnect }},
}

// ConnectionKeys returns the keys that ParseNVMEConnectionParams reads, sorted.
func ConnectionKeys() []string {
	var keys []string
	for _, r := range numberRules {
		keys = append(keys, r.key)
	}
	for _, r := range switchRules {
		keys = append(keys, r.key)
	}
	slices.Sort(keys)
	return keys
}

func defaultConnectionParams() NVMEConnectionParams {
	d := nvme.DefaultConnectionConfig()
	return NVMEConnectionParams{
		CtrlLossTmo: d.CtrlLossTmo, ReconnectDelay: d.ReconnectDelay, KeepAliveTmo: d.KeepAliveTmo, EagerReconnect: true,
	}
}

// ParseNVMEConnectionParams reads the connection options out of StorageClass
// parameters or of a VolumeContext; other keys are not its business. Missing
// keys get the defaults -1, 5 and 0. An error names key, value and rule.
func ParseNVMEConnectionParams(params map[string]string) (NVMEConnectionParams, error) {
	p := defaultConnectionParams()
	for _, r := range numberRules {
		if v, ok := params[r.key]; ok {
			n, err := r.parse(v)
			if err != nil {
				return NVMEConnectionParams{}, err
			}
			*r.field(&p) = n
		}
	}
	for _, r := range switchRules {
		if v, ok := params[r.key]; ok {
			if v != "true" && v != "false" {
				return NVMEConnectionParams{}, fmt.Errorf(`parameter %s: value %q: want "true" or "false": %w`, r.key, v, volume.ErrInvalid)
			}
			*r.field(&p) = v == "true"
		}
	}
	if err := p.checkTogether(); err != nil {
		return NVMEConnectionParams{}, err
	}
	return p, nil
}

var errRange = errors.New("out of range")

func (r numberRule) parse(v string) (int, error) {
	n, err := strconv.Atoi(v)
	if err == nil && strconv.Itoa(n) != v {
		err = strconv.ErrSyntax // "+5", "007": one number has one spelling
	}
	if err == nil && (n < r.lo || n > r.hi) {
		err = errRange
	}
	if err != nil {
		return 0, fmt.Errorf("parameter %s: value %q: want a whole number from %d to %d: %w: %w", r.key, v, r.lo, r.hi, volume.ErrInvalid, err)
	}
	return n, nil
}

// checkTogether refuses what each key alone allows.
func (p NVMEConnectionParams) checkTogether() error {
	if p.QueueSize != 0 && p.QueueSize < minQueueSize {
		return fmt.Errorf("parameter %s: value %d: want 0 or %d to %d: %w", paramQueueSize, p.QueueSize, minQueueSize, maxQueueSize, volume.ErrInvalid)
	}
	// The kernel computes attempts = (loss + delay - 1) / delay, and shows
	// attempts * delay, which is never more than that sum.
	if most := maxInt32 - (p.ReconnectDelay - 1); p.CtrlLossTmo > most {
		return fmt.Errorf("parameter %s: value %d: with %s %d the kernel's arithmetic would overflow; want at most %d, or -1 for ever: %w",
			paramCtrlLossTmo, p.CtrlLossTmo, paramReconnectDelay, p.ReconnectDelay, most, volume.ErrInvalid)
	}
	return nil
}

// ToVolumeContext writes every option under its key; parsing the result gives
// params again.
func ToVolumeContext(params NVMEConnectionParams) map[string]string {
	m := map[string]string{}
	for _, r := range numberRules {
		m[r.key] = strconv.Itoa(*r.field(&params))
	}
	for _, r := range switchRules {
		m[r.key] = strconv.FormatBool(*r.field(&params))
	}
	return m
}

// Profile is the canonical text of the options: equal options, equal text.
// Publications with the same profile share a session.
func (p NVMEConnectionParams) Profile() string {
	m := ToVolumeContext(p)
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, "%s=%s;", k, m[k])
	}
	return b.String()
}

// Config returns what the kernel is told.
func (p NVMEConnectionParams) Config() nvme.ConnectionConfig {
	return nvme.ConnectionConfig{
		CtrlLossTmo: p.CtrlLossTmo, ReconnectDelay: p.ReconnectDelay, KeepAliveTmo: p.KeepAliveTmo, FastIOFailTmo: p.FastIOFailTmo,
		NrIOQueues: p.NrIOQueues, NrWriteQueues: p.NrWriteQueues, NrPollQueues: p.NrPollQueues, QueueSize: p.QueueSize,
		TOS: p.TOS, HdrDigest: p.HdrDigest, DataDigest: p.DataDigest, DisableSQFlow: p.DisableSQFlow,
	}
}
