package nvme

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// ErrTarget is wrapped by every error of Target.Validate and ValidateNQN.
var ErrTarget = errors.New("invalid target")

// Target is what a connection goes to, and as whom.
type Target struct {
	Transport     string // "tcp"
	NQN           string // of the subsystem
	TargetAddress string // numeric: the kernel resolves no names
	TargetPort    int
	// HostNQN and HostID go together: Linux 6.12 refuses a host ID that it has
	// seen with another NQN.
	HostNQN, HostID string
	// HostTraddr is the source address, HostIface the interface; both optional.
	HostTraddr, HostIface string
}

// maxNQN is the longest NQN in bytes (NVMe Base 2.0, 4.5: 223 and a NUL).
const maxNQN = 223

var (
	// Printable ASCII without blank and comma: the kernel takes options
	// separated by commas and newlines.
	nqnPattern   = regexp.MustCompile(`^nqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9][A-Za-z0-9.-]*(:[!-+\--~]+)?$`)
	uuidNQN      = "nqn.2014-08.org.nvmexpress:uuid:"
	uuidPattern  = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)
	ifacePattern = regexp.MustCompile(`^[!-+\-.0-9;-~]{1,15}$`) // no comma, '/', ':' (dev_valid_name)
)

// ValidateNQN checks the form of NVMe Base 2.0, section 4.5 (a date and a reversed
// domain, with a UUID where the prefix promises one), and that the name is safe
// inside the kernel's option text and as a configfs directory. The
// specification would allow any UTF-8.
func ValidateNQN(nqn string) error {
	if len(nqn) > maxNQN || !nqnPattern.MatchString(nqn) || strings.Contains(nqn, "/") {
		return fmt.Errorf("NQN %q: want nqn.YYYY-MM.REVERSE.DOMAIN[:NAME], at most %d printable bytes without comma, blank and '/': %w", nqn, maxNQN, ErrTarget)
	}
	if id, ok := strings.CutPrefix(nqn, uuidNQN); ok && !uuidPattern.MatchString(id) {
		return fmt.Errorf("NQN %q: want a UUID after %q: %w", nqn, uuidNQN, ErrTarget)
	}
	return nil
}

// Validate checks every field, and that none can smuggle a further option into
// the kernel's text.
func (t Target) Validate() error {
	if t.Transport != "tcp" {
		return fmt.Errorf("transport %q: want tcp: %w", t.Transport, ErrTarget)
	}
	if err := ValidateNQN(t.NQN); err != nil {
		return err
	}
	if err := validateAddress("target address", t.TargetAddress); err != nil {
		return err
	}
	if t.TargetPort < 1 || t.TargetPort > 65535 {
		return fmt.Errorf("target port %d: want 1 to 65535: %w", t.TargetPort, ErrTarget)
	}
	if t.HostNQN != "" {
		if err := ValidateNQN(t.HostNQN); err != nil {
			return fmt.Errorf("host: %w", err)
		}
	}
	if (t.HostNQN == "") != (t.HostID == "") {
		return fmt.Errorf("host NQN %q, host ID %q: want both or none, because the kernel adds the machine's own to one alone: %w", t.HostNQN, t.HostID, ErrTarget)
	}
	if t.HostID != "" && !uuidPattern.MatchString(t.HostID) {
		return fmt.Errorf("host ID %q: want a UUID: %w", t.HostID, ErrTarget)
	}
	if t.HostTraddr != "" {
		if err := validateAddress("host address", t.HostTraddr); err != nil {
			return err
		}
	}
	if t.HostIface != "" && !ifacePattern.MatchString(t.HostIface) {
		return fmt.Errorf("host interface %q: want the name of a network interface: %w", t.HostIface, ErrTarget)
	}
	return nil
}

// validateAddress takes what the kernel's inet_pton_with_scope takes, less what
// cannot be connected to. An IPv4 address in IPv6 clothes is refused, so that
// one address has one spelling in sysfs.
func validateAddress(what, s string) error {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return fmt.Errorf("%s %q: want a numeric IP address: %w: %w", what, s, ErrTarget, err)
	}
	if a.Is4In6() || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("%s %q: want a unicast address in its own family: %w", what, s, ErrTarget)
	}
	if a.Zone() != "" && !ifacePattern.MatchString(a.Zone()) {
		return fmt.Errorf("%s %q: want the name of a network interface after %%: %w", what, s, ErrTarget)
	}
	return nil
}
