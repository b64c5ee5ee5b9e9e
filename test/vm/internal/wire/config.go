package wire

// ConfigPath is where the init program finds its Config in the root file system.
const ConfigPath = "/etc/vm-guest.json"

// Config is all that a machine is told for one boot.
type Config struct {
	Hostname  string   `json:"hostname"`
	MachineID string   `json:"machineID"`
	Token     string   `json:"token"`
	Control   string   `json:"control"` // address of the harness as seen from the machine
	Modules   []string `json:"modules"` // loaded before the machine is ready: file names, dependencies first
	Later     []string `json:"later"`   // loaded after that, in the background
	Links     []Link   `json:"links"`
	Disk      *Disk    `json:"disk,omitempty"`
	Hosts     []Host   `json:"hosts,omitempty"` // for /etc/hosts
}

// Link configures the network interface with the given hardware address.
type Link struct {
	MAC  string `json:"mac"`
	Name string `json:"name"`
	Addr string `json:"addr"` // with prefix length
}

// Disk is the data disk; FS "" leaves it alone.
type Disk struct {
	Device string `json:"device"`
	FS     string `json:"fs"`
	Mount  string `json:"mount"`
}

// Host is a line of /etc/hosts.
type Host struct {
	Name string `json:"name"`
	Addr string `json:"addr"`
}
