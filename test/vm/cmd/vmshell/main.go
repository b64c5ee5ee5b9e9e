//go:build linux

// Command vmshell boots a storage machine and a node and runs what is typed, for trying things out by hand.
//
//	vmshell -kernel 6.1 -file build/holdfast:/usr/local/bin/holdfast
//
// A line is a bash script for the machine named in the prompt. "@storage" and "@node" change the machine; ":cut", ":boot",
// ":unplug", ":plug", ":drop", ":heal" and ":console" act on it. There is no terminal: programs that need one do not work.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/holdfast-csi/holdfast/test/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
	err := run(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "vmshell:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg := vm.LabConfig{Name: "shell", Log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	flag.StringVar(&cfg.Kernel, "kernel", "6.12", "series of the kernel")
	volatile := flag.Bool("volatile", false, "the data disk loses at a power cut what was not flushed")
	flag.Func("file", "HOST:GUEST, a file to put into both machines; may be repeated", func(value string) error {
		host, guest, ok := strings.Cut(value, ":")
		if !ok {
			return errors.New("must be HOST:GUEST")
		}
		cfg.Files = append(cfg.Files, vm.File{Host: host, Guest: guest})
		return nil
	})
	flag.Parse()
	lab, err := vm.NewLab(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(session(ctx, lab, *volatile), lab.Close())
}

func session(ctx context.Context, lab *vm.Lab, volatile bool) error {
	machines := make(map[string]*vm.Machine)
	for _, cfg := range []vm.MachineConfig{{Name: "storage", DiskGiB: 8, VolatileDisk: volatile}, {Name: "node"}} {
		m, err := lab.Add(cfg)
		if err != nil {
			return err
		}
		machines[cfg.Name] = m
	}
	if err := lab.Boot(ctx, machines["storage"], machines["node"]); err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	current := machines["node"]
	for {
		fmt.Printf("%s# ", current.Name())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case line, ok := <-lines:
			if !ok || line == "exit" {
				return nil
			}
			if name, isName := strings.CutPrefix(line, "@"); isName && machines[name] != nil {
				current = machines[name]
			} else if err := execute(ctx, current, line); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
}

func execute(ctx context.Context, m *vm.Machine, line string) error {
	switch line {
	case ":cut":
		return m.PowerCut()
	case ":boot":
		return m.Boot(ctx)
	case ":unplug":
		return m.NIC(0).Unplug()
	case ":plug":
		return m.NIC(0).Plug()
	case ":drop":
		m.NIC(0).Drop()
		return nil
	case ":heal":
		return m.NIC(0).Heal()
	case ":console":
		fmt.Println(m.Console())
		return nil
	}
	cmd := m.Command(ctx, "bash", "-c", line)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
