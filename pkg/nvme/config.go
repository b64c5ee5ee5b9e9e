// Package nvme is the vocabulary of NVMe over Fabrics connections: what to
// connect to, with which options, and how both are written for nvme-cli and
// for the kernel. It is pure: it opens nothing, runs nothing and resolves no
// names.
package nvme

import (
	"strconv"
	"strings"
)

// ConnectionConfig holds the options of one connection. Zero always means
// "leave it to the kernel".
type ConnectionConfig struct {
	// CtrlLossTmo is how long the kernel goes on reconnecting, in seconds; -1
	// for ever, 0 the kernel's default of 600. The kernel keeps it as a number
	// of attempts, CtrlLossTmo/ReconnectDelay rounded up.
	CtrlLossTmo int
	// ReconnectDelay is the pause before each attempt, in seconds; default 10.
	ReconnectDelay int
	// KeepAliveTmo is the keep-alive time-out, in seconds; default 5.
	KeepAliveTmo int
	// FastIOFailTmo is after how many seconds of reconnecting I/O fails
	// although the kernel goes on trying; default never.
	FastIOFailTmo int
	// NrIOQueues, NrWriteQueues and NrPollQueues are numbers of queues; the
	// default is one I/O queue a CPU and none of the others.
	NrIOQueues, NrWriteQueues, NrPollQueues int
	// QueueSize is the number of elements of an I/O queue, 16 to 1024; default 128.
	QueueSize int
	// TOS is the type of service of the TCP connections, 1 to 255.
	TOS int
	// HdrDigest and DataDigest add CRC32C to the headers and the data of PDUs.
	HdrDigest, DataDigest bool
	// DisableSQFlow turns off submission queue flow control.
	DisableSQFlow bool
	// DuplicateConnect lets a second connection between the same pair be made.
	DuplicateConnect bool
}

// Defaults of the product: never give up, and try often.
const (
	defaultCtrlLossTmo    = -1
	defaultReconnectDelay = 5
)

// DefaultConnectionConfig reconnects for ever, every five seconds.
func DefaultConnectionConfig() ConnectionConfig {
	return ConnectionConfig{CtrlLossTmo: defaultCtrlLossTmo, ReconnectDelay: defaultReconnectDelay}
}

// BuildConnectArgs returns the arguments of nvme-cli (2.x) for the connection.
// No secret ever goes in: every process of the node can read them.
func BuildConnectArgs(target Target, config ConnectionConfig) []string {
	args := []string{
		"connect",
		"-t", target.Transport,
		"-a", target.TargetAddress,
		"-s", strconv.Itoa(target.TargetPort),
		"-n", target.NQN,
	}
	number := func(flag string, v int, set bool) {
		if set {
			args = append(args, flag, strconv.Itoa(v))
		}
	}
	text := func(flag, v string) {
		if v != "" {
			args = append(args, flag, v)
		}
	}
	number("-l", config.CtrlLossTmo, config.CtrlLossTmo != 0)
	number("-c", config.ReconnectDelay, config.ReconnectDelay > 0)
	number("-k", config.KeepAliveTmo, config.KeepAliveTmo > 0)
	text("-q", target.HostNQN)
	text("-I", target.HostID)
	text("-w", target.HostTraddr)
	text("-f", target.HostIface)
	for _, o := range config.furtherNumbers() {
		number(o.flag, o.value, o.value > 0)
	}
	for _, o := range config.switches() {
		if o.on {
			args = append(args, o.flag)
		}
	}
	return args
}

// FabricsOptions returns the text that one write(2) to /dev/nvme-fabrics takes
// (Linux drivers/nvme/host/fabrics.c, opt_tokens).
func FabricsOptions(target Target, config ConnectionConfig) string {
	var opts []string
	text := func(key, v string) {
		if v != "" {
			opts = append(opts, key+"="+v)
		}
	}
	number := func(key string, v int, set bool) {
		if set {
			opts = append(opts, key+"="+strconv.Itoa(v))
		}
	}
	text("transport", target.Transport)
	text("traddr", target.TargetAddress)
	number("trsvcid", target.TargetPort, true)
	text("nqn", target.NQN)
	text("hostnqn", target.HostNQN)
	text("hostid", target.HostID)
	text("host_traddr", target.HostTraddr)
	text("host_iface", target.HostIface)
	number("ctrl_loss_tmo", config.CtrlLossTmo, config.CtrlLossTmo != 0)
	number("reconnect_delay", config.ReconnectDelay, config.ReconnectDelay > 0)
	number("keep_alive_tmo", config.KeepAliveTmo, config.KeepAliveTmo > 0)
	for _, o := range config.furtherNumbers() {
		number(o.key, o.value, o.value > 0)
	}
	for _, o := range config.switches() {
		if o.on {
			opts = append(opts, o.key)
		}
	}
	return strings.Join(opts, ",")
}

type numberOption struct {
	key, flag string
	value     int
}

func (c ConnectionConfig) furtherNumbers() []numberOption {
	return []numberOption{
		{"fast_io_fail_tmo", "--fast_io_fail_tmo", c.FastIOFailTmo}, // nvme-cli 2.9 on
		{"nr_io_queues", "-i", c.NrIOQueues},
		{"nr_write_queues", "-W", c.NrWriteQueues},
		{"nr_poll_queues", "-P", c.NrPollQueues},
		{"queue_size", "-Q", c.QueueSize},
		{"tos", "-T", c.TOS},
	}
}

type switchOption struct {
	key, flag string
	on        bool
}

func (c ConnectionConfig) switches() []switchOption {
	return []switchOption{
		{"hdr_digest", "-g", c.HdrDigest},
		{"data_digest", "-G", c.DataDigest},
		{"disable_sqflow", "--disable-sqflow", c.DisableSQFlow},
		{"duplicate_connect", "-D", c.DuplicateConnect},
	}
}
