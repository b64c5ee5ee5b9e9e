package gate

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/internal/volume"
)

const (
	tableName = "holdfast"
	chainName = "input"
	setName   = "gated"
	// ruleTag marks our rule. It changes whenever the rule does, so that a
	// rule left by another release is recognised and replaced.
	ruleTag = "holdfast gate 1"
	// chainPriority is just before the usual filter chains (0).
	chainPriority = -10
	// setID names the set within one transaction.
	setID = 1
	// replyTimeout bounds one exchange with the kernel. Answers are immediate
	// unless the machine is in deep trouble.
	replyTimeout = 10 * time.Second
)

// New returns a Gate made with nftables (Linux 4.10 and later) in the network
// namespace of the process, and puts the still empty table there. An error
// wraps volume.ErrPrecondition: without the table nothing can be closed.
func New() (Gate, error) {
	g := &nft{}
	if err := g.Close(); err != nil {
		return nil, fmt.Errorf("%w: nf_tables cannot be used (kernel module nf_tables, CAP_NET_ADMIN): %w",
			volume.ErrPrecondition, err)
	}
	return g, nil
}

// nft keeps no state but the lock: others may flush the whole ruleset at any
// time, so every Close looks at what is really there.
type nft struct {
	mu sync.Mutex
}

// Close puts the table, the chain, the set, the rule and the ports in place,
// whatever of it is missing, in one transaction.
func (g *nft) Close(ports ...uint16) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.close(ports); err != nil {
		return fmt.Errorf("close TCP ports %v: %w", ports, err)
	}
	return nil
}

func (g *nft) close(ports []uint16) error {
	conn, err := dial()
	if err != nil {
		return err
	}
	o := newObjects()
	keep, extra, err := o.rules(conn)
	if err != nil {
		return err
	}
	conn.AddTable(o.table)
	conn.AddChain(o.chain)
	if err := conn.AddSet(o.set, nil); err != nil {
		return fmt.Errorf("set %s: %w", setName, err)
	}
	for _, r := range extra {
		if err := conn.DelRule(r); err != nil {
			return fmt.Errorf("outdated rule: %w", err)
		}
	}
	if !keep {
		conn.InsertRule(o.rule())
	}
	if len(ports) > 0 {
		if err := conn.SetAddElements(o.set, elements(ports...)); err != nil {
			return fmt.Errorf("set %s: %w", setName, err)
		}
	}
	return conn.Flush()
}

// Open takes each port out in a transaction of its own: one that is missing
// would make the kernel refuse all of them.
func (g *nft) Open(ports ...uint16) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	conn, err := dial()
	if err != nil {
		return fmt.Errorf("open TCP ports %v: %w", ports, err)
	}
	o := newObjects()
	var errs []error
	for _, port := range ports {
		err := conn.SetDeleteElements(o.set, elements(port))
		if err == nil {
			err = conn.Flush()
		}
		if err != nil && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("open TCP port %d: %w", port, err))
		}
	}
	return errors.Join(errs...)
}

// Closed reads the set. Without the rule that uses it, nothing is closed.
func (g *nft) Closed() ([]uint16, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	conn, err := dial()
	if err != nil {
		return nil, fmt.Errorf("list closed TCP ports: %w", err)
	}
	o := newObjects()
	keep, _, err := o.rules(conn)
	if err != nil {
		return nil, fmt.Errorf("list closed TCP ports: %w", err)
	}
	if !keep {
		return nil, nil
	}
	elems, err := conn.GetSetElements(o.set)
	if err != nil {
		return nil, fmt.Errorf("list closed TCP ports: set %s: %w", setName, err)
	}
	ports := make([]uint16, 0, len(elems))
	for _, e := range elems {
		ports = append(ports, binaryutil.BigEndian.Uint16(e.Key))
	}
	slices.Sort(ports)
	return ports, nil
}

// dial prepares a connection. A socket is opened for each exchange, in the
// network namespace of the calling thread.
func dial() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return c.SetDeadline(time.Now().Add(replyTimeout))
	}))
}

// objects describes what the gate consists of; it is made anew for each
// exchange because the library writes to it.
type objects struct {
	table *nftables.Table
	chain *nftables.Chain
	set   *nftables.Set
}

func newObjects() objects {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	policy := nftables.ChainPolicyAccept
	return objects{
		table: table,
		chain: &nftables.Chain{
			Name: chainName, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum:  nftables.ChainHookRef(unix.NF_INET_LOCAL_IN),
			Priority: nftables.ChainPriorityRef(chainPriority),
			Policy:   &policy,
		},
		set: &nftables.Set{ID: setID, Name: setName, Table: table, KeyType: nftables.TypeInetService},
	}
}

// rules looks for the rule: keep says that it is there, extra are rules of ours
// that are outdated or double.
func (o objects) rules(conn *nftables.Conn) (keep bool, extra []*nftables.Rule, err error) {
	rules, err := conn.GetRules(o.table, o.chain)
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return false, nil, fmt.Errorf("list rules of table %s: %w", tableName, err)
	}
	for _, r := range rules {
		tag, ok := userdata.GetString(r.UserData, userdata.TypeComment)
		switch {
		case !ok || len(tag) < len(tableName) || tag[:len(tableName)] != tableName:
			// Somebody else's: left alone. Ours is inserted before it.
		case tag == ruleTag && !keep:
			keep = true
		default:
			extra = append(extra, r)
		}
	}
	return keep, extra, nil
}

// Offsets and bits within a TCP header.
const (
	offsetDestPort = 2
	offsetFlags    = 13
	flagSYN        = 0x02
	flagACK        = 0x10
)

// rule is: meta l4proto tcp, tcp flags & (syn|ack) == syn, tcp dport @gated,
// drop.
func (o objects) rule() *nftables.Rule {
	return &nftables.Rule{
		Table: o.table, Chain: o.chain,
		UserData: userdata.AppendString(nil, userdata.TypeComment, ruleTag),
		Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offsetFlags, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{flagSYN | flagACK}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{flagSYN}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offsetDestPort, Len: 2},
			&expr.Lookup{SourceRegister: 1, SetName: setName, SetID: setID},
			&expr.Verdict{Kind: expr.VerdictDrop},
		},
	}
}

func elements(ports ...uint16) []nftables.SetElement {
	list := make([]nftables.SetElement, 0, len(ports))
	for _, p := range ports {
		list = append(list, nftables.SetElement{Key: binaryutil.BigEndian.PutUint16(p)})
	}
	return list
}
