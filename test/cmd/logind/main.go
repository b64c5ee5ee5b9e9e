// Command logind stands for systemd-logind in a test machine: it tells of
// shutdowns that do not take place. SIGUSR1 begins one, SIGUSR2 cancels it, and
// SIGTERM ends the program.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/holdfast-csi/holdfast/internal/shutdown/shutdowntest"
)

// delay is logind's own default.
const delay = 5 * time.Second

func main() {
	if err := run("unix:path=" + os.Args[1]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func run(bus string) error {
	var conn *dbus.Conn
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var err error
		if conn, err = dbus.Connect(bus); err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
	}
	l, err := shutdowntest.Serve(conn, delay)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGTERM)
	fmt.Println("serving")
	var lock shutdowntest.Lock
	for {
		select {
		case lock = <-l.Locks:
			fmt.Println("lock taken by", lock.Who)
		case s := <-signals:
			if s == syscall.SIGTERM {
				return conn.Close()
			}
			began := time.Now()
			if err := l.Prepare(s == syscall.SIGUSR1); err != nil {
				return err
			}
			if s != syscall.SIGUSR1 {
				continue
			}
			select {
			case <-lock.Released:
				fmt.Println("released after", time.Since(began).Seconds())
			case <-time.After(delay):
				fmt.Println("not released")
			}
		}
	}
}
