//go:build linux

package guest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/vm/internal/wire"
)

// configureLinks names and addresses the interfaces. ioctl(2) instead of the ip program: under emulation every program
// started costs some 30 ms, and there are a dozen steps.
func configureLinks(links []wire.Link) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := setUp(fd, "lo"); err != nil {
		return err
	}
	byMAC, err := interfacesByMAC()
	if err != nil {
		return err
	}
	for _, link := range links {
		name, ok := byMAC[link.MAC]
		if !ok {
			return fmt.Errorf("interface %s: no device has address %s", link.Name, link.MAC)
		}
		if err := configureLink(fd, name, link); err != nil {
			return fmt.Errorf("interface %s: %w", link.Name, err)
		}
	}
	return nil
}

func interfacesByMAC() (map[string]string, error) {
	paths, err := filepath.Glob("/sys/class/net/*/address")
	if err != nil {
		return nil, err
	}
	names := make(map[string]string)
	for _, path := range paths {
		mac, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		names[strings.TrimSpace(string(mac))] = filepath.Base(filepath.Dir(path))
	}
	return names, nil
}

func configureLink(fd int, name string, link wire.Link) error {
	prefix, err := netip.ParsePrefix(link.Addr)
	if err != nil {
		return err
	}
	if name != link.Name {
		if err := rename(fd, name, link.Name); err != nil {
			return err
		}
	}
	ifr, err := unix.NewIfreq(link.Name)
	if err != nil {
		return err
	}
	if err := ifr.SetInet4Addr(prefix.Addr().AsSlice()); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr); err != nil {
		return fmt.Errorf("set address %s: %w", prefix.Addr(), err)
	}
	mask := netip.AddrFrom4([4]byte(maskBytes(prefix.Bits())))
	if err := ifr.SetInet4Addr(mask.AsSlice()); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, ifr); err != nil {
		return fmt.Errorf("set mask %s: %w", mask, err)
	}
	return setUp(fd, link.Name)
}

func maskBytes(bits int) []byte {
	mask := ^uint32(0) << (32 - bits)
	return []byte{byte(mask >> 24), byte(mask >> 16), byte(mask >> 8), byte(mask)}
}

func setUp(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return fmt.Errorf("flags of %s: %w", name, err)
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// rename uses a raw request because x/sys/unix has none with two names.
func rename(fd int, from, to string) error {
	var req struct {
		from, to [unix.IFNAMSIZ]byte
		_        [8]byte
	}
	copy(req.from[:unix.IFNAMSIZ-1], from)
	copy(req.to[:unix.IFNAMSIZ-1], to)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFNAME, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return fmt.Errorf("rename %s to %s: %w", from, to, errno)
	}
	return nil
}
