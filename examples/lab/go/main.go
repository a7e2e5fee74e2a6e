// What Go does on its own sockets, to be laid beside what the lab does in Rust.
//
// The lab builds these files into one program and runs it. By hand: go run examples/lab/go/*.go illusion
// Every program prints lines of the form "what: how much", and ends by itself.
package main

import (
	"fmt"
	"os"
	"time"
)

var programs = map[string]func(){
	"flags":          flags,
	"kind":           kind,
	"crowd":          crowd,
	"scheduler":      scheduler,
	"illusion":       illusion,
	"read-deadline":  readDeadline,
	"write-deadline": writeDeadline,
}

func main() {
	if len(os.Args) < 2 || programs[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: flags | kind | crowd N | scheduler N | illusion | read-deadline | write-deadline")
		os.Exit(2)
	}
	// What does not come out as expected is not to stand still for ever.
	time.AfterFunc(20*time.Second, func() { check(fmt.Errorf("%s: not done after 20 s", os.Args[1])) })
	programs[os.Args[1]]()
}

// say prints something that was seen.
func say(what string, value any) {
	fmt.Printf("%s: %v\n", what, value)
}

// check ends the program if something failed that the experiment is not about.
func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
