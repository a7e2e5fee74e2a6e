package main

import "net"

// illusion: what is below a Read that waits?
func illusion() {
	client, conn := pair()
	fd := descriptor(conn.(*net.TCPConn))
	say("descriptor", fd)
	say("O_NONBLOCK", nonBlocking(fd))
	say("in epoll before the first Read", registered(fd))

	read := make(chan int)
	go func() {
		buf := make([]byte, 16)
		for {
			n, err := conn.Read(buf) // waits, so it seems
			check(err)
			read <- n
		}
	}()
	parked := 0
	for i := 0; i < 3; i++ {
		if until(func() bool { return waiting("IO wait") == 1 }) {
			parked++
		}
		_, err := client.Write([]byte("hello"))
		check(err)
		<-read
	}
	say("Reads parked in state \"IO wait\"", parked)
	say("in epoll after three Reads that waited", registered(fd))
}
