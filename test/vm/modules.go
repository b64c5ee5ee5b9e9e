//go:build linux

package vm

import "slices"

// bootModules are what a machine cannot be reached or have a disk without.
func bootModules() []string {
	return []string{"virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "configfs"}
}

// earlyModules are those that the kernel does not load by itself when they are used: it has no request for a directory of
// configfs that is not there, and device nodes of modules not loaded are made by a udev that we do not have.
func earlyModules() []string {
	return []string{"nvme_fabrics", "nvme_tcp", "nvmet", "nvmet_tcp", "loop", "null_blk", "dm_mod"}
}

// neededModules must exist in a kernel for it to be used. Those that are not loaded early are loaded while the machine is
// at work already, because all of them take five seconds under emulation; what needs one sooner gets it from modprobe.
func neededModules() []string {
	return slices.Concat(bootModules(), earlyModules(), []string{
		"nf_tables", "nft_reject_inet", "nft_ct", "nft_limit", "tls", "dm_multipath", "dm_queue_length", "dm_service_time",
		"dm_thin_pool", "dm_flakey", "dm_delay", "veth", "bridge", "sch_netem", "inet_diag", "tcp_diag",
	})
}

// onDemandModules must exist too, but cost too much to load where they may not be used: two seconds for btrfs, three for
// xfs. A machine loads the one of its data disk, and the kernel the others at the first mount.
func onDemandModules() []string { return []string{"ext4", "xfs", "btrfs", "dm_crypt"} }

// wantedModules are there for modprobe where the kernel has them.
func wantedModules() []string {
	return append(onDemandModules(),
		"nvme_loop", "dummy", "overlay", "nft_chain_nat", "nft_redir", "nft_counter", "nft_log", "nft_quota", "nft_numgen",
		"dm_snapshot", "dm_mirror", "dm_log", "dm_era", "dm_writecache", "dm_dust", "dm_log_writes", "dm_raid", "raid1",
		"scsi_debug", "sd_mod", "nbd", "brd", "zram", "macvlan", "vlan", "8021q", "ipvlan", "tun", "sch_tbf", "sch_fq", "sch_ingress",
		"act_mirred", "cls_u32", "cls_matchall", "cls_flower", "ifb", "softdog", "isofs", "vfat", "fuse", "nls_utf8", "nls_ascii",
		"nls_cp437", "autofs4", "ip_tables", "xt_conntrack", "br_netfilter",
	)
}

// wantedDirs are taken whole: the kernel asks for ciphers and checksums by alias.
func wantedDirs() []string {
	return []string{"crypto", "arch/x86/crypto", "lib/crypto", "lib/math", "drivers/nvme"}
}
