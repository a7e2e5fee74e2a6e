package main

import (
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// waiting counts the goroutines that are in this state, as a panic's stack traces name it: "IO wait" is a goroutine that the
// netpoller has parked, "syscall" one that sits in the kernel, with its thread.
func waiting(state string) (count int) {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		heading, _, _ := strings.Cut(stack, "\n")
		if strings.Contains(heading, "["+state) {
			count++
		}
	}
	return count
}

// until waits for something to be so, but not for ever. Was it?
func until(holds func() bool) bool {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

// threads counts those of the operating system: the scheduler's M.
func threads() int {
	tasks, err := os.ReadDir("/proc/self/task")
	check(err)
	return len(tasks)
}

func number() int {
	if len(os.Args) > 2 {
		n, err := strconv.Atoi(os.Args[2])
		check(err)
		return n
	}
	return 100
}

// memory is what stacks and heap have in use.
func memory() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.StackInuse + stats.HeapInuse
}

// crowd: a goroutine for each of N connections, all silent. How many threads, how much memory?
func crowd() {
	n := number()
	var servers []net.Conn
	for i := 0; i < n; i++ {
		_, server := pair()
		servers = append(servers, server)
	}
	goroutines, used := runtime.NumGoroutine(), memory()
	for _, server := range servers {
		go func(c net.Conn) {
			defer c.Close()
			c.Read(make([]byte, 16))
		}(server)
	}
	until(func() bool { return waiting("IO wait") >= n })
	say("goroutines for them", runtime.NumGoroutine()-goroutines)
	say("threads", threads())
	say("stack and heap, bytes for each", (int64(memory())-int64(used))/int64(n))
}

// scheduler: what stops a thread, and what a thread that is busy stops.
func scheduler() {
	stuck()
	compute()
}

// stuck: N goroutines that wait in Conn.Read, and then N that wait in read(2) itself, on pipes that are blocking.
func stuck() {
	n := number()
	for i := 0; i < n; i++ {
		_, server := pair()
		go server.Read(make([]byte, 1))
	}
	until(func() bool { return waiting("IO wait") >= n })
	parked, then := waiting("IO wait"), threads()
	for i := 0; i < n; i++ {
		var pipe [2]int
		check(syscall.Pipe(pipe[:]))
		go syscall.Read(pipe[0], make([]byte, 1))
	}
	// A thread that another one replaces comes a moment later.
	until(func() bool { return waiting("syscall") >= n && threads() >= n })
	say("goroutines in Conn.Read", parked)
	say("threads then", then)
	say("goroutines in read(2)", waiting("syscall"))
	say("threads with them", threads())
}

// compute: on one processor, one goroutine computes for 200 ms. Is another one's client answered meanwhile?
func compute() {
	runtime.GOMAXPROCS(1)
	client, server := pair()
	go func() {
		var line [1]byte
		for {
			n, err := server.Read(line[:])
			if err != nil {
				return
			}
			server.Write(line[:n])
		}
	}()
	var begun, over atomic.Bool
	go func() {
		begun.Store(true)
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		}
		over.Store(true)
	}()
	until(begun.Load)
	asked := time.Now()
	_, err := client.Write([]byte("x"))
	check(err)
	_, err = client.Read(make([]byte, 1))
	check(err)
	say("one computes for 200 ms, another is answered meanwhile", !over.Load())
	say("after", time.Since(asked).Round(100*time.Microsecond))
}
