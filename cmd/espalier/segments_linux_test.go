package main

import (
	"errors"
	"math"
	"net"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// loseSegments makes the kernel drop that part of the TCP segments that come in
// on a socket, as a bad line does: their sender sends them again. 1 is a black
// hole, 0 ends it. It needs no privileges: a classic BPF program on the socket
// throws the dice. A listener hands it on to those that it accepts.
func loseSegments(on syscall.Conn, part float64) error {
	raw, err := on.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		if part == 0 {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
			if errors.Is(set, unix.ENOENT) { // there was none
				set = nil
			}
			return
		}
		set = attach(int(fd), part)
	})
	return errors.Join(err, set)
}

func attach(fd int, part float64) error {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtRand},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(part * math.MaxUint32), SkipTrue: 1},
		bpf.RetConstant{Val: 0}, // lost
		bpf.RetConstant{Val: math.MaxUint32},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// losingFrom returns a dialer whose connections lose segments from the first on.
func losingFrom(part float64) *net.Dialer {
	d := &net.Dialer{}
	if part > 0 {
		d.Control = func(_, _ string, c syscall.RawConn) (err error) {
			if e := c.Control(func(fd uintptr) { err = attach(int(fd), part) }); e != nil {
				return e
			}
			return err
		}
	}
	return d
}
