// Package ownership tells other tools of the machine which NVMe controllers are
// ours: entries in the registry of nvme-cli 3 (libnvme, REGISTRY.md), which
// `nvme disconnect-all` and nvme-stas look at before they take a connection down.
// One directory a controller, with the files owner and seqnum, is either whole or
// not there.
//
// It knows no session and looks at no controller: who calls says which are ours.
// It never removes what says another owner, unless the controller of that name was
// made by us since. Nothing depends on it: what fails is logged once.
package ownership
