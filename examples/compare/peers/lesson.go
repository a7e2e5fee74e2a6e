// Go's net with a goroutine for each connection, structured like the lesson's own servers: bufio in
// both directions, encoding/binary for the length, a frame and a packet for each request, and a
// pool of packets.
//
// Idiomatic: the first version of most Go programs. The lesson's third server flushes only when its
// buffer is full, so a client that waits for its ack waits forever. This one flushes each ack,
// which is necessary where the server cannot know that more requests are coming.
//
// usage: lesson PORT
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

const (
	header   = 13
	maxFrame = 64 * 1024
)

var errFrame = errors.New("no such frame")

type submit struct {
	command byte
	id      string
	payload []byte
}

type ack struct {
	command byte
	id      string
	result  byte
}

var submits = sync.Pool{New: func() any { return new(submit) }}

func readFrame(r io.Reader) ([]byte, error) {
	var length int32
	if err := binary.Read(r, binary.BigEndian, &length); err != nil {
		return nil, err
	}
	if length < header || length > maxFrame {
		return nil, errFrame
	}
	body := make([]byte, length-4)
	_, err := io.ReadFull(r, body)
	return body, err
}

func writeFrame(w io.Writer, body []byte) error {
	if err := binary.Write(w, binary.BigEndian, int32(len(body)+4)); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

func (s *submit) decode(body []byte) error {
	if body[0] != 1 && body[0] != 2 {
		return errFrame
	}
	s.command, s.id, s.payload = body[0], string(body[1:9]), body[9:]
	return nil
}

func (a *ack) encode() []byte {
	return bytes.Join([][]byte{{a.command}, []byte(a.id), {a.result}}, nil)
}

func handle(body []byte) ([]byte, error) {
	s := submits.Get().(*submit)
	defer submits.Put(s)
	if err := s.decode(body); err != nil {
		return nil, err
	}
	a := ack{command: s.command | 0x80, id: s.id}
	return a.encode(), nil
}

func serve(c net.Conn) {
	defer c.Close()
	r, w := bufio.NewReader(c), bufio.NewWriter(c)
	for {
		body, err := readFrame(r)
		if err != nil {
			return
		}
		answer, err := handle(body)
		if err != nil {
			return
		}
		if writeFrame(w, answer) != nil || w.Flush() != nil {
			return
		}
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
	fmt.Fprintln(os.Stderr, "lesson:", err)
	os.Exit(1)
}
