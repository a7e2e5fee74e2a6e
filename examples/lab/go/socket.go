package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// open keeps all connections: the garbage collector closes one without references.
var open []net.Conn

// pair returns both ends of a connection.
func pair() (client, server net.Conn) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	client, err = net.Dial("tcp", listener.Addr().String())
	check(err)
	server, err = listener.Accept()
	check(err)
	open = append(open, client, server)
	return client, server
}

// descriptor returns the number that the system knows a socket by. Do not read from it: that is the netpoller's.
func descriptor(socket syscall.Conn) (number int) {
	raw, err := socket.SyscallConn()
	check(err)
	check(raw.Control(func(fd uintptr) { number = int(fd) }))
	return number
}

// nonBlocking asks the system whether a descriptor has O_NONBLOCK: F_GETFL of fcntl(2).
func nonBlocking(fd int) bool {
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
	if errno != 0 {
		check(errno)
	}
	return flags&syscall.O_NONBLOCK != 0
}

// poller returns the descriptor of the netpoller: this process's only one of the kind "anon_inode:[eventpoll]".
func poller() (number, kind string) {
	links, err := filepath.Glob("/proc/self/fd/*")
	check(err)
	for _, link := range links {
		if kind, _ := os.Readlink(link); strings.Contains(kind, "eventpoll") {
			return filepath.Base(link), kind
		}
	}
	return "", "none"
}

// registered says for what the netpoller's epoll watches a descriptor, as the kernel has it written down (proc(5), fdinfo).
func registered(fd int) string {
	number, _ := poller()
	info, err := os.ReadFile("/proc/self/fdinfo/" + number)
	check(err)
	for _, line := range strings.Split(string(info), "\n") {
		var target int
		var events uint32
		if n, _ := fmt.Sscanf(line, "tfd: %d events: %x", &target, &events); n == 2 && target == fd {
			return names(events)
		}
	}
	return "no"
}

func names(events uint32) string {
	var found []string
	for _, event := range []struct {
		bit  uint32
		name string
	}{{syscall.EPOLLIN, "IN"}, {syscall.EPOLLOUT, "OUT"}, {syscall.EPOLLRDHUP, "RDHUP"}, {1 << 31, "ET"}} {
		if events&event.bit != 0 {
			found = append(found, event.name)
		}
	}
	return strings.Join(found, "|")
}

// arrived waits until so many bytes have come, and leaves them there.
func arrived(socket syscall.Conn, count int) {
	raw, err := socket.SyscallConn()
	check(err)
	for there := 0; there < count; time.Sleep(time.Millisecond) {
		check(raw.Control(func(fd uintptr) {
			there, _, _ = syscall.Recvfrom(int(fd), make([]byte, count), syscall.MSG_PEEK)
		}))
	}
}

// flags: are Go's sockets blocking?
func flags() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	client, server := pair()
	say("listener O_NONBLOCK", nonBlocking(descriptor(listener.(*net.TCPListener))))
	say("dialed O_NONBLOCK", nonBlocking(descriptor(client.(*net.TCPConn))))
	say("accepted O_NONBLOCK", nonBlocking(descriptor(server.(*net.TCPConn))))
}

// kind: by what does the netpoller wait on this system?
func kind() {
	pair() // it is there from the first socket on
	_, kind := poller()
	say("netpoller", kind)
}
