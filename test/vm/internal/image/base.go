package image

import (
	"fmt"
)

// Programs that every machine has beside busybox: those that talk to the kernel about file systems, block devices, NVMe
// and networks, and those of which busybox's version lacks options that scripts use.
func baseTools() []string {
	return []string{
		"mkfs.ext4", "mkfs.ext3", "e2fsck", "fsck.ext4", "tune2fs", "resize2fs", "dumpe2fs", "debugfs",
		"mkfs.xfs", "xfs_repair", "xfs_growfs", "xfs_db", "xfs_io", "mkfs.btrfs", "btrfs",
		"nvme", "nft", "ip", "tc", "ss", "bridge",
		"blkid", "wipefs", "mount", "umount", "findmnt", "mountpoint", "lsblk", "losetup", "blockdev", "blkdiscard",
		"fstrim", "fsfreeze", "flock", "fallocate", "nsenter", "unshare", "dmesg", "dmsetup",
		"modprobe", "lsmod", "insmod", "rmmod", "modinfo", "ps", "pgrep", "pkill",
		"bash", "dd", "timeout", "stat", "cp", "mv", "df", "du", "sync", "truncate", "date", "readlink", "realpath",
		"sha256sum", "cmp", "od", "sort", "head", "tail", "sleep", "ls", "mktemp", "ln", "rm", "mkdir", "touch",
	}
}

// optionalTools come along where the building machine has them.
func optionalTools() []string {
	return []string{"strace", "filefrag", "lsattr", "chattr", "grep", "sed", "jq"}
}

// Base returns the root file system that machines have in common, with tools as further programs that must exist. It
// contains no kernel modules and no init.
func Base(tools []string) (*Archive, error) {
	a := &Archive{}
	layout(a)
	if err := a.Tools(append(baseTools(), tools...)...); err != nil {
		return nil, err
	}
	for _, name := range optionalTools() {
		_ = a.Tool(name) // optional
	}
	// glibc opens this one when a thread is cancelled, so no program names it.
	if lib, err := findLibrary("libgcc_s.so.1", libraryDirs()); err == nil {
		a.File(lib, MergedUsr(lib), 0o644)
		if err := a.Libraries(lib); err != nil {
			return nil, err
		}
	}
	if err := a.Busybox(); err != nil {
		return nil, fmt.Errorf("base image: %w", err)
	}
	return a, nil
}

// layout adds directories, the links of a merged /usr, and the configuration that C programs expect.
func layout(a *Archive) {
	for _, dir := range []string{
		"/dev", "/proc", "/sys", "/run", "/mnt", "/data", "/root", "/var/log", "/var/lib", "/etc",
		"/usr/bin", "/usr/sbin", "/usr/lib/modules", "/usr/lib64",
	} {
		a.Dir(dir, 0o755)
	}
	a.Dir("/tmp", 0o777)
	for link, target := range map[string]string{
		"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/lib64": "usr/lib64", "/var/run": "/run", "/var/tmp": "/tmp",
	} {
		a.Symlink(target, link)
	}
	for name, content := range map[string]string{
		"/etc/passwd":        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"/etc/group":         "root:x:0:\ndisk:x:6:\nnogroup:x:65534:\n",
		"/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"/etc/shells":        "/bin/bash\n/bin/sh\n",
		"/etc/os-release":    "ID=vm\nNAME=\"test machine\"\n",
	} {
		a.Bytes(name, []byte(content), 0o644)
	}
}
