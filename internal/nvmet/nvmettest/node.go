package nvmettest

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"
)

type kind int

const (
	kindRoot kind = iota
	kindHosts
	kindSubsystems
	kindPorts
	kindHost
	kindSubsystem
	kindPort
	kindNamespaces
	kindAllowedHosts
	kindPortLinks
	kindNamespace
	kindOther
)

// child says what mkdir makes in a directory; elsewhere mkdir is refused.
func (k kind) child() (kind, bool) {
	switch k {
	case kindHosts:
		return kindHost, true
	case kindSubsystems:
		return kindSubsystem, true
	case kindPorts:
		return kindPort, true
	case kindNamespaces:
		return kindNamespace, true
	default:
		return 0, false
	}
}

// node is a directory. Default directories come and go with their parent.
type node struct {
	kind       kind
	name       string
	parent     *node
	isDefault  bool
	discovered bool // subsystems: a host has seen it
	draining   bool // namespaces directories: a rmdir inside waits for I/O
	refs       int  // links that point here
	attrs      map[string]string
	dirs       map[string]*node
	links      map[string]*node
}

func newNode(k kind, name string, parent *node) *node {
	n := &node{kind: k, name: name, parent: parent,
		attrs: map[string]string{}, dirs: map[string]*node{}, links: map[string]*node{}}
	if parent != nil {
		parent.dirs[name] = n
	}
	return n
}

func (n *node) addDefault(k kind, name string) *node {
	c := newNode(k, name, n)
	c.isDefault = true
	return c
}

func newRoot() *node {
	root := newNode(kindRoot, "", nil)
	root.isDefault = true
	root.attrs["discovery_nqn"] = "nqn.2014-08.org.nvmexpress.discovery"
	root.addDefault(kindHosts, "hosts")
	root.addDefault(kindSubsystems, "subsystems")
	root.addDefault(kindPorts, "ports")
	return root
}

// populate gives a new object what the kernel gives it.
func (n *node) populate() {
	switch n.kind {
	case kindHost:
		n.attrs = map[string]string{"dhchap_key": "", "dhchap_ctrl_key": "", "dhchap_hash": "", "dhchap_dhgroup": ""}
	case kindSubsystem:
		serial := strings.ReplaceAll(uuid.NewString(), "-", "")[:20]
		n.attrs = map[string]string{
			"attr_allow_any_host": "0", "attr_version": "2.1", "attr_serial": serial,
			"attr_model": "Linux", "attr_cntlid_min": "1", "attr_cntlid_max": "65519",
			"attr_qid_max": "128", "attr_ieee_oui": "0x000000", "attr_firmware": "6.12.0", "attr_pi_enable": "0",
		}
		n.addDefault(kindNamespaces, "namespaces")
		n.addDefault(kindAllowedHosts, "allowed_hosts")
		n.addDefault(kindOther, "passthru")
	case kindPort:
		n.attrs = map[string]string{
			"addr_trtype": "", "addr_adrfam": "", "addr_traddr": "", "addr_trsvcid": "",
			"addr_treq": "not specified", "addr_tsas": "none", "param_inline_data_size": "-1",
			"param_max_queue_size": "-1", "param_pi_enable": "0",
		}
		n.addDefault(kindPortLinks, "subsystems")
		n.addDefault(kindOther, "referrals")
		n.addDefault(kindOther, "ana_groups").addDefault(kindOther, "1").attrs["ana_state"] = "optimized"
	case kindNamespace:
		n.attrs = map[string]string{
			"device_path": "", "device_uuid": uuid.NewString(), "device_nguid": uuid.Nil.String(),
			"ana_grpid": "1", "enable": "0", "buffered_io": "0", "p2pmem": "",
		}
	}
}

// find follows directories and links. An empty path is the node itself.
func (n *node) find(p string) (*node, error) {
	for name := range strings.SplitSeq(p, "/") {
		if name == "" {
			continue
		}
		next := n.dirs[name]
		if next == nil {
			next = n.links[name]
		}
		if next == nil {
			if _, ok := n.attrs[name]; ok {
				return nil, syscall.ENOTDIR
			}
			return nil, syscall.ENOENT
		}
		n = next
	}
	return n, nil
}

func (n *node) names() []string {
	names := slices.Collect(maps.Keys(n.attrs))
	names = slices.AppendSeq(names, maps.Keys(n.dirs))
	names = slices.AppendSeq(names, maps.Keys(n.links))
	slices.Sort(names)
	return names
}

func (n *node) has(name string) bool {
	_, attr := n.attrs[name]
	return attr || n.dirs[name] != nil || n.links[name] != nil
}

// removable is what configfs checks before a rmdir: no link points here, and
// below there is nothing but default directories.
func (n *node) removable() error {
	if n.refs > 0 {
		return syscall.EBUSY
	}
	if len(n.links) > 0 {
		return syscall.ENOTEMPTY
	}
	for _, c := range n.dirs {
		if !c.isDefault {
			return syscall.ENOTEMPTY
		}
		if err := c.removable(); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) enabled() bool { return n.attrs["enable"] == "1" }

func validNumber(name string, bits int) bool {
	id, err := strconv.ParseUint(name, 0, bits)
	return err == nil && (bits != 32 || id != 0 && id != 1<<32-1)
}
