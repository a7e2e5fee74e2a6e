package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// result is what Read or Write returned, without the addresses that an error names.
func result(n int, err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = os.ErrDeadlineExceeded
	}
	return fmt.Sprintf("n=%d err=%v", n, err)
}

// readDeadline: a deadline that has passed fails every Read, even with bytes there, until it is set again.
func readDeadline() {
	client, server := pair()
	buf := make([]byte, 10)
	check(server.SetReadDeadline(time.Now().Add(20 * time.Millisecond)))
	say("Read, nothing there", result(server.Read(buf)))
	_, err := client.Write([]byte("hi"))
	check(err)
	arrived(server.(*net.TCPConn), 2)
	say("Read, 2 bytes there", result(server.Read(buf)))
	check(server.SetReadDeadline(time.Time{}))
	say("Read, deadline reset", result(server.Read(buf)))
}

// writeDeadline: a Write that runs into its deadline has sent a part, and returns how much. The deadline
// fails every later Write.
func writeDeadline() {
	client, server := pair()
	data := make([]byte, 256<<20)
	check(client.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)))
	n, err := client.Write(data)
	say("bytes that Write is given", len(data))
	say("Write, the peer does not read", result(n, err))
	read, err := io.CopyN(io.Discard, server, int64(n))
	check(err)
	say("the peer reads", read)
	say("Write, there is room", result(client.Write(data[:1])))
	check(client.SetWriteDeadline(time.Time{}))
	say("Write, deadline reset", result(client.Write(data[:1])))
}
