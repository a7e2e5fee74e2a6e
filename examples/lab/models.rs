//! The models of input and output: C8 to C18. The experiments stand in `blocking.rs` (to C13) and in `multiplexing.rs`.

use super::blocking::{c8, c9, c10, c11, c12, c13};
use super::claim::{Claim, State};
use super::multiplexing::{c14, c15, c16, c17, c18};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "C8",
        says: "“如果内核一直等到全部数据就绪才返回，这种行为模式就称为阻塞” Blocking is when the kernel returns only once all data is ready, non-blocking when it returns at once with an error",
        asks: "A blocking read asks for 10 bytes, 2 are there, 8 come later. What does it return, and when?",
        why: "A blocking read waits until there is something: some bytes, the end, or an error. It returns what is there then, as the same lesson says of Go's Read (C43). Only recv(2) with MSG_WAITALL waits for all. \
              The difference between the two modes is what happens when there is nothing: one sleeps, the other gets EAGAIN.",
        look: "strace -f -e trace=recvfrom,sendto target/release/examples/lab run C8",
        exercise: "Send 2 bytes, read into 10: print n. Then do it with recv(2) and MSG_WAITALL, and send the rest one second later. In Go: Read against io.ReadFull.",
        state: State::Runs(c8),
    },
    Claim {
        id: "C9",
        says: "“应用线程将阻塞在这个I/O系统调用上，无法进行后续处理，只能等待” The thread is stuck in the system call, and the kernel copies the data to it before that returns",
        asks: "A thread waits in read for 50 ms. How much processor time does it use meanwhile?",
        why: "The call does not return, so the thread has no next line to run. It is off the processor: state S in /proc/PID/task/TID/stat, until the packet that arrives wakes it. \
              The copying is part of the same call: when it returns, the bytes are in the buffer and gone from the kernel's queue.",
        look: "strace -f -T -e trace=recvfrom,sendto target/release/examples/lab run C9",
        exercise: "Let a program wait in read, and look at /proc/PID/task/*/stat, wchan and syscall from a shell. Do the same with a Go program: how many of its threads are in read?",
        state: State::Runs(c9),
    },
    Claim {
        id: "C10",
        says: "“一个线程仅能处理一个网络连接上的数据通信” With blocking calls, a thread serves one connection, also while it is idle",
        asks: "A server with one thread and blocking calls. A is connected and says nothing, B asks. When is B answered?",
        why: "The only thread sleeps in A's read; B's request lies in the kernel, received and acknowledged, with nobody to read it. It is the waiting that stands in the way, not the number of threads: \
              a single thread that waits for all at once, with poll or epoll, answers B at once. A thread for each client does so, too, at the price of a thread.",
        look: "strace -f -e trace=accept4,recvfrom,sendto target/release/examples/lab run C10 2>&1 | head -20",
        exercise: "Run `cargo run --release --example models -- serve iterative`, connect two `nc 127.0.0.1 8888`, and look at the receive queues with `ss -tn`. Whose bytes wait there?",
        state: State::Runs(c10),
    },
    Claim {
        id: "C11",
        says: "“这个模型却是最容易实现和使用的，所以，各大平台在默认情况下都将Socket设置为阻塞的” Blocking is easiest to use, and sockets block by default",
        asks: "Which of these sockets have O_NONBLOCK: std's TcpStream, mio's TcpStream, Go's TCPConn?",
        why: "socket(2) and accept(2) make blocking ones, and Rust's std leaves them so. mio and Go pass SOCK_NONBLOCK when they make one; fcntl(2) with F_GETFL shows the flag. So Go's Conn blocks as one uses it, and does not below (C22). \
              Where a call may wait, the code is a loop of read, answer, write; where it may not, each place where it would wait must be left and found again.",
        look: "strace -f -e trace=socket,accept4,fcntl target/release/examples/lab run C11 2>&1 | grep -e SOCK_STREAM -e accept4 -e F_GETFL",
        exercise: "Print F_GETFL of a std::net::TcpStream, before and after set_nonblocking(true). In Go: of a TCPConn, with SyscallConn and Control.",
        state: State::Runs(c11),
    },
    Claim {
        id: "C12",
        says: "“立即将‘未就绪’的状态以错误码形式（比如：EAGAIN/EWOULDBLOCK），返回” A non-blocking call that is not ready returns EAGAIN at once",
        asks: "1,000 non-blocking reads on an empty socket: how many return, with what, and how long does one take?",
        why: "With O_NONBLOCK the kernel looks into the queue and comes back either way: errno 11, EAGAIN, in Rust ErrorKind::WouldBlock, in Go syscall.EAGAIN. EWOULDBLOCK is the same number on Linux. \
              The same holds for accept(2) with nobody waiting and for write(2) with full buffers. The time is that of a system call, well below a microsecond on most machines.",
        look: "strace -f -e trace=recvfrom,accept4,sendto target/release/examples/lab run C12 2>&1 | tail -40",
        exercise: "Set a socket non-blocking and read from it, accept from an empty listener, and write until it is full. Print each error's raw_os_error().",
        state: State::Runs(c12),
    },
    Claim {
        id: "C13",
        says: "“这样的轮询是对CPU计算资源的极大浪费” Asking again and again wastes the processor",
        asks: "One client, silent for 300 ms. How many calls does a server make that asks all the time, and how many one with epoll?",
        why: "EAGAIN tells that nothing is there, and nothing about when there will be. Who only has that must ask again, for each client, for as long as it lives: a whole processor, idle or not. \
              A call that waits (poll, epoll_wait) puts the thread to sleep, and the packet that arrives wakes it: no calls, no time. So non-blocking sockets are used together with such a call.",
        look: "strace -f -c -e trace=recvfrom,accept4,epoll_wait,epoll_pwait target/release/examples/lab run C13",
        exercise: "Run `cargo run --release --example models -- serve busy` with one `nc` connected, and watch it with top. Then `serve epoll-lt`.",
        state: State::Runs(c13),
    },
    Claim {
        id: "C14",
        says: "“首先将需要进行I/O操作的Socket，都添加到多路复用函数中（这里以select为例），然后阻塞…这时select函数返回。然后用户线程会针对这个Socket再次发起网络I/O请求” Hand the sockets to select, block there, and when it returns read",
        asks: "How many system calls does a request cost a server that uses select, and how many one that blocks in read?",
        why: "select takes the set, sleeps, and gives the set back with those bits left that are ready. It moves no byte: the read is a call of its own. So a request costs one call more than with a thread that waits in read. \
              What is won is that the sleep is for all sockets at once, and that one sleep may end with many ready.",
        look: "strace -f -e trace=select,pselect6,recvfrom,sendto target/release/examples/lab run C14 2>&1 | head -20",
        exercise: "Write an echo server for two connections with select(2) or poll(2). Print each call and what it returns.",
        state: State::Runs(c14),
    },
    Claim {
        id: "C15",
        says: "“由于数据已就绪，这次网络I/O操作将得到预期的操作结果” Since the data is ready, the operation after select has the result that one expects",
        asks: "poll tells two threads that a socket is readable: 1 byte is there. Both read. What do they get?",
        why: "Readiness is what was true when it was told. Another thread (or process) may have taken the bytes since, and select(2) knows a case where the kernel itself drops them: a wrong checksum. \
              It also does not say how much is there. So sockets that are polled are set non-blocking, EAGAIN is taken as `not now`, and n is looked at; on a blocking socket the one who comes too late stands still, with all others behind it.",
        look: "strace -f -e trace=poll,ppoll,recvfrom target/release/examples/lab run C15",
        exercise: "Let two threads poll one listener and accept from it, blocking. Connect once. Where is the second thread?",
        state: State::Runs(c15),
    },
    Claim {
        id: "C16",
        says: "“一个应用线程可以同时处理多个Socket…避免了非阻塞模型中轮询，带来的CPU计算资源浪费的问题” One thread serves many sockets, and the kernel's notices replace asking",
        asks: "1,000 clients at one reactor: how many threads, and how many system calls in 100 ms in which nobody says anything?",
        why: "epoll_wait returns for whichever of all registered sockets has news. So one thread is enough as long as no step of it waits for anything else, and while nobody has news it sleeps. \
              With a thread for each client, the sleeping is done by as many threads.",
        look: "strace -f -c -e trace=epoll_wait,epoll_ctl,accept4,recvfrom,sendto,clone3 target/release/examples/lab run C16",
        exercise: "Run `cargo run --release --example server`, connect 1,000 clients, and count /proc/PID/task. Then a Go server: how many threads, how many goroutines (runtime.NumGoroutine)?",
        state: State::Runs(c16),
    },
    Claim {
        id: "C17",
        says: "“性能更好的epoll等函数” epoll performs better than select and poll",
        asks: "One socket is ready, and 1,000 are idle beside it. How many times as long as epoll_wait does poll take? And with no idle ones?",
        why: "select and poll are handed the whole list with each call, and the kernel looks at every member: the cost grows with those who are idle. epoll keeps the list in the kernel (epoll_ctl), and each socket that has news puts itself on a \
              list of those who are ready: epoll_wait looks at that one only. With hardly anybody idle there is nothing to win, and registering costs a call of its own.",
        look: "strace -f -c -e trace=select,pselect6,poll,ppoll,epoll_wait,epoll_pwait,epoll_pwait2 target/release/examples/lab run C17",
        exercise: "Time poll(2) and epoll_wait(2) with one ready socket among 1, 10, 100 and 1,000. At which number do they cross on your machine?",
        state: State::Runs(c17),
    },
    Claim {
        id: "C18",
        says: "“也给使用者带来了不小的复杂度，以至于后面出现了…libevent、libev、libuv等” Multiplexing is what servers use today, and its complexity has brought forth libevent, libev and libuv",
        asks: "A server with a thread for each client has some 40 lines of code. How many has the same with edge-triggered epoll?",
        why: "Who may not wait in the middle of a connection must keep for each one how far it is, and find that again when the kernel names it. Readiness, interest, partial writes and fairness are then one's own business; in blocking code they are \
              the kernel's and the scheduler's. Libraries take the part that is the same everywhere: the loop, the watchers, the buffers, the time. The names differ, the parts do not.",
        look: "wc -l examples/models/*.rs",
        exercise: "Read examples/models/threads.rs beside epoll_et.rs. For each line that only the second has, say what would go wrong without it.",
        state: State::Substitute(
            c18,
            "Which servers are in use is nothing that can be measured here. What is counted is the price: the lines of code, without blank ones and comments, of the nine servers that speak the same protocol, and what each must remember.",
        ),
    },
];
