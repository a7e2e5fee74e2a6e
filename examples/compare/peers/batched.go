// Go's net with a goroutine for each connection, optimized.
//
// Idiomatic: bufio in both directions. Requests are read in the buffer (Peek, Discard), and acks
// are written in place (AvailableBuffer). A request allocates nothing. All acks of a batch are
// flushed at once, before the goroutine may block.
//
// usage: batched PORT
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
)

const (
	header   = 13
	ackSize  = 14
	maxFrame = 64 * 1024
)

// whole reports whether the reader holds all of the next request.
func whole(r *bufio.Reader) bool {
	if r.Buffered() < 4 {
		return false
	}
	length, _ := r.Peek(4)
	return uint32(r.Buffered()) >= binary.BigEndian.Uint32(length)
}

// answer writes the ack of a request.
func answer(w *bufio.Writer, h []byte) error {
	if h[4] != 1 && h[4] != 2 {
		return fmt.Errorf("command %#x", h[4])
	}
	if w.Available() < ackSize {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	a := append(w.AvailableBuffer(), 0, 0, 0, ackSize, h[4]|0x80)
	a = append(a, h[5:header]...)
	_, err := w.Write(append(a, 0))
	return err
}

func serve(c net.Conn) {
	defer c.Close()
	// The longest request fits into the buffer. Pages that are never touched take no memory.
	r, w := bufio.NewReaderSize(c, maxFrame), bufio.NewWriter(c)
	defer w.Flush() // sends the acks of the requests before an invalid one
	for {
		if !whole(r) && w.Flush() != nil {
			return
		}
		length, err := r.Peek(4)
		if err != nil {
			return
		}
		n := int(binary.BigEndian.Uint32(length))
		if n < header || n > maxFrame {
			return
		}
		frame, err := r.Peek(n)
		if err != nil || answer(w, frame) != nil {
			return
		}
		r.Discard(n)
	}
}

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			go serve(c)
		}
	}
	fmt.Fprintln(os.Stderr, "batched:", err)
	os.Exit(1)
}
