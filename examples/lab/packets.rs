//! Frames, packets and the server made of them: D1 to D18, what the second lesson builds.

use super::claim::{Claim, State};
use super::{packets_bytes as bytes, packets_server as server};

pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        id: "D1",
        says: "totalLength has 4 bytes, big-endian, and counts itself: “网络字节序使用大端字节序（BigEndian）”",
        asks: "Which 9 bytes does the frame of “hello” have?",
        why: "5 bytes of payload and 4 of length make 9, so 00 00 00 09. Both ends must agree on two things that the bytes do not say: which byte comes first, and whether the \
              length counts itself. Who takes the other order reads 150,994,944 and waits for a frame that never ends. In Go it is binary.BigEndian, in Rust to_be_bytes and from_be_bytes.",
        look: "strace -x -e trace=sendto,recvfrom target/release/examples/lab run D1",
        exercise: "Encode “hello” by hand and by LengthField::whole(4); then with LengthField::rest(4), which does not count itself: which byte differs?",
        state: State::Runs(bytes::d1),
    },
    Claim {
        id: "D2",
        says: "“连接请求包（值为0x01）消息请求包（值为0x02）连接响应包（值为0x81）消息响应包（值为0x82）” Four commands",
        asks: "const ( A = iota + 0x01; B ), and below it const ( C = iota + 0x80; D ): which value has D in Go?",
        why: "The text means 0x81 and 0x82, and so does the comment in the program published with it. But that constant is `iota + 0x80`, in a const block of its own, and iota begins with 0 \
              in every block: so the program answers 0x80 and 0x81. It is the easiest of slips, and its tests and its client could not notice, since both ends \
              are made from the same file; readers did, and copies of the text now have `iota + 0x81`. The crate speaks both (glassloop::submit::Dialect). Mixed, \
              one side takes a submitack for a connack, and the other does not know it at all.",
        look: "strace -f -x -s 32 -e trace=sendto target/release/examples/lab run D2",
        exercise: "Run `go run` on the two const blocks and print all four. Then write the test that would have found it: bytes against the specification, not Encode against Decode.",
        state: State::Runs(bytes::d2),
    },
    Claim {
        id: "D3",
        says: "“ID是每个连接上请求包的消息流水号，顺序累加，步长为1，循环使用” The ID counts a connection's requests, in steps of 1, and wraps; the ack carries the same",
        asks: "IDs are eight digits. Which comes after 99999999?",
        why: "The specification says that it wraps, not to what; this crate goes on with 00000000. A server need not care: it gives back the eight bytes as they came, whatever they are. The program's \
              client makes its ID with Sprintf(\"%08d\") and cuts it to 8 characters, so after the hundred millionth request it says 10000000, ten times over: the width in a format is \
              the least, not the most, in Go as in Rust.",
        look: "strace -f -x -s 32 -e trace=sendto target/release/examples/lab run D3",
        exercise: "Write a client that keeps the IDs it waits for, and reports an ack that it does not wait for. Let it begin with 99999990.",
        state: State::Runs(bytes::d3),
    },
    Claim {
        id: "D4",
        says: "“成功的响应用0表示，如果是失败的响应，无论失败原因是什么，我们都用1来表示” Result 0 is success, 1 any failure",
        asks: "A request that the service refuses: does its connection go on?",
        why: "A result is an answer like any other, and the stream is as whole as before: so the connection goes on, and the next request is served. Only where the stream itself cannot be \
              trusted any more, after a bad length say, is there nothing to go on with. The lesson's server never sends a 1: handlePacket returns an error, and handleConn closes.",
        look: "strace -f -x -s 32 -e trace=sendto,recvfrom target/release/examples/lab run D4",
        exercise: "Change the twin of handlePacket so that an empty payload is answered with result 1; decide for each of its errors whether the connection can go on.",
        state: State::Runs(bytes::d4),
    },
    Claim {
        id: "D5",
        says: "“建立Frame和Packet抽象” Two layers: stream to frame, frame to packet, and back",
        asks: "How many sockets does it take to test both layers, and the server's answer?",
        why: "A frame knows where a message ends, a packet what it says; neither has to know where the bytes come from. So all of it can be run on a slice. Here the lesson's two layers and this crate's one codec \
              give the same 14 bytes. They are one in the crate, since the smallest packet is also the shortest frame: who knows both can refuse a length before anything else is read (D18).",
        look: "strace -f -e trace=socket,sendto target/release/examples/lab run D5",
        exercise: "Give the crate's LengthField a second layer of your own, a packet codec on `frame.body`, and let an echo server speak it.",
        state: State::Runs(bytes::d5),
    },
    Claim {
        id: "D6",
        says: "“Decode(io.Reader) (FramePayload, error)” The codec reads from an io.Reader, and writes to an io.Writer",
        asks: "10 of 27 bytes have come when the read deadline passes. What does the decoder take for the length the next time?",
        why: "Who reads for himself must wait: io.ReadFull in Go, read_exact in Rust. That is simple, and what a goroutine is for. But if the wait is cut short by a deadline, the bytes that were \
              read are gone, and the next frame begins in the middle of this one; the lesson's client does just that, with its 5 s and `continue`. A decoder that is handed what has come, and \
              answers “more” without taking any, can be asked again whenever there is more. That is the state machine that Go's blocking calls hide, and what an event loop needs.",
        look: "strace -e trace=sendto,recvfrom target/release/examples/lab run D6",
        exercise: "Let the lesson's client meet a server that sends half an ack, and the other half 6 s later. Repair it in two ways: keep the half, or close.",
        state: State::Runs(bytes::d6),
    },
    Claim {
        id: "D7",
        says: "“ErrShortRead…这里没有设置网络I/O操作的Deadline” There are errors for a short read and a short write, and no deadline is set",
        asks: "A stream may end at any of 1,013 places in a frame. At how many of them does the decoder return ErrShortRead?",
        why: "io.ReadFull returns all bytes or an error: io.EOF if none came, io.ErrUnexpectedEOF if some did; and an io.Writer that takes fewer bytes must say why. So neither ErrShortRead nor ErrShortWrite can \
              come. What does come is a peer who sends a byte now and then: there is no error for him, he is just never done, and without a deadline he holds his goroutine for ever. \
              Config::frame_timeout counts from a frame's first byte, however steadily the rest drips.",
        look: "strace -f -r -e trace=sendto,shutdown,close target/release/examples/lab run D7 2>&1 | tail -30",
        exercise: "Set a deadline in the twin of handleConn, anew for each frame and not for each read. What would the second do with the one who drips?",
        state: State::Runs(bytes::d7),
    },
    Claim {
        id: "D8",
        says: "“模拟了Read或Write出错的情况…测试覆盖率…就可以达到90%以上” Fakes that fail at the n-th call bring the tests' coverage above 90 %",
        asks: "What keeps it from being 100 %?",
        why: "A codec on io.Reader can be tested with a fake that fails when told to; so can one on Rust's Read. Counted with Go 1.19, the lesson's tests reach 20 of 22 statements of the package, 90.9 %: the two that \
              are left return ErrShortRead and ErrShortWrite, which cannot come (D7). A call on a non-blocking socket has more outcomes than “done” and “failed”: fewer bytes, not now, a \
              signal came. Here each has its answer from a script.",
        look: "cargo test --lib transport",
        exercise: "Write a fake that takes 1 byte at each write and is interrupted before each. Does your write loop send every byte exactly once?",
        state: State::Runs(bytes::d8),
    },
    Claim {
        id: "D9",
        says: "“s.ID = string(pktBody[:8])” Submit and SubmitAck are decoded by slicing",
        asks: "How short must a packet's body be for this line to end the whole Go server?",
        why: "A slice beyond the end panics, in Go as in Rust, and in Go a panic that nobody recovers ends the process. Every body of less than 8 bytes does it, and the peer decides how long it is: \
              00 00 00 08 02 and three letters are enough. The length is to be checked where the frame is cut, once, against the shortest packet there is; then slicing is safe. In Rust `get(..8)` or `split_at_checked` \
              make the compiler ask what else should happen.",
        look: "strace -f -e trace=exit_group target/release/examples/lab run D9 # it ends with 0: eight panics were caught",
        exercise: "Fuzz the twin of packet.Decode: random bytes, 20,000 times, until nothing panics. Which checks did it take?",
        state: State::Runs(bytes::d9),
    },
    Claim {
        id: "D10",
        says: "“你可以课后自己思考一下有conn流程时代码应该如何调整” Homework: how would a conn flow change the code?",
        asks: "A submit comes before the conn: what is its result, and what becomes of the connection?",
        why: "The connection gets a state: it awaits a conn, or is ready. One match on the state and the packet decides, so no order is forgotten: a submit before the conn is answered with 1, then the connection closes; \
              a second conn does no harm; and who says nothing at all has a deadline, else he would hold a descriptor for nothing. It is off by default, as the lesson's \
              clients send no conn and its server closes on one. This is examples/server/session.rs, with --require-conn.",
        look: "strace -f -x -s 32 -e trace=sendto,recvfrom,shutdown target/release/examples/lab run D10",
        exercise: "Add a third state, closing, that a packet of your own begins: what is answered to a submit after it?",
        state: State::Runs(server::d10),
    },
    Claim {
        id: "D11",
        says: "“把为packet包编写单元测试的任务就交给你自己完成了” Homework: unit tests for the packets",
        asks: "A packet of 27 bytes can be cut at 27 places. How many cuts decode to something?",
        why: "A table of packets, and for each all its cuts, is the cheapest thorough test: every shorter piece must ask for more and take nothing, the whole must come back as it was. Bytes that are \
              no packet have their tests too, in src/codec/submit.rs: all 256 commands, lengths and results. Encode against Decode alone is not enough, as D2 shows.",
        look: "cargo test --lib submit",
        exercise: "Write such a table in Go for packet.Decode, with t.Run for each cut. Which ones panic?",
        state: State::Runs(bytes::d11),
    },
    Claim {
        id: "D12",
        says: "“服务端程序将这个新连接交到一个新的Goroutine中处理” The server is put together: a goroutine for each connection",
        asks: "Five clients are connected. How many threads does the server with a thread for each have, and how many the reactor?",
        why: "Both are given the same bytes in the same pieces, and send the same back, because what they do with bytes is the same code; they differ in who waits. With a thread for each, each waits in recvfrom(2) for its own client; \
              in Go it is a goroutine that is parked, which is cheaper. The reactor has one thread, which waits for all in epoll_wait(2).",
        look: "strace -f -c -e trace=clone3,recvfrom,sendto,epoll_wait target/release/examples/lab run D12",
        exercise: "Write the server with threads from memory: accept, spawn, a loop around read, decode, answer, write. Then compare with examples/models/threads.rs.",
        state: State::Runs(server::d12),
    },
    Claim {
        id: "D13",
        says: "“为我们的服务端增加优雅退出机制” Homework: a graceful exit",
        asks: "The server is told to stop in the middle of full load. How many requests that it has read stay without an ack?",
        why: "Stop accepting; handle what was read; send what is queued; shut down the sending side, shutdown(2) with SHUT_WR; and then read on and drop what comes until the peer leaves. The last step is the one that \
              is forgotten: who closes with unread bytes in the buffer sends a reset, which can destroy the last acks on their way. What came too late is not acked, so its sender knows. \
              The example server does this on SIGTERM, and exits with 0.",
        look: "strace -f -r -e trace=accept4,shutdown target/release/examples/lab run D13",
        exercise: "In Go: close the listener, tell each handleConn by a context, let it finish its frame, CloseWrite, read to the end. Count acks under load, as here.",
        state: State::Runs(server::d13),
    },
    Claim {
        id: "D14",
        says: "“捕捉某个链接上出现的可能导致整个程序退出的panic” Homework: one connection's panic must not end the program",
        asks: "The handler panics on the second of three requests of a client. Who else notices?",
        why: "Each callback runs in catch_unwind, which is Rust's recover: the panic ends the connection that it was called for, after the acks before it, is counted and logged, and the loop goes on. In Go it takes a `defer func() { recover() }()` in \
              handleConn, as a panic in any goroutine ends the process; in Rust one in a thread ends that thread. Two limits: the handler must be left in order by whatever may \
              panic; and a program built with panic = \"abort\" ends all the same.",
        look: "strace -f -e trace=sendto,shutdown,exit_group target/release/examples/lab run D14",
        exercise: "Put a recover into the lesson's handleConn and send it 00 00 00 04. What happens to a lock that was held where it panicked?",
        state: State::Runs(server::d14),
    },
    Claim {
        id: "D15",
        says: "“client在每条连接上发送10个submit请求后退出” 5 connections, 10 submits each, 1 a second; a read deadline of 5 s lets the reader notice the end",
        asks: "Nobody sends any more, and the reader is told to end. When does it hear of it?",
        why: "50 acks, with the IDs 1 to 10 on each connection, as the lesson's log shows; here with 5 ms for its second. But a reader that waits in Read hears of nothing else: with a deadline it looks up when \
              that passes, in the lesson up to 5 s later. It can be woken at once: by Close or CloseRead from another goroutine in Go, by shutdown(2) in Rust; and a reactor sleeps in epoll_wait on all it has to hear of, its own eventfd \
              among them.",
        look: "strace -f -r -e trace=shutdown,eventfd2,write,recvfrom target/release/examples/lab run D15 2>&1 | tail -30",
        exercise: "Take the deadline out of the lesson's client and let main close the connection to end the reader. Which error does Read return then?",
        state: State::Runs(server::d15),
    },
    Claim {
        id: "D16",
        says: "“recv submit: id = 00000001, payload=…”, and at the end “handleConn: frame decode error: EOF”: the log of the lesson's server",
        asks: "Five clients leave as they should. How many errors does the log show?",
        why: "That a client leaves between two frames is how every conversation ends, and no error: io.EOF is Go's word for it, and worth its own branch. Who leaves within a frame is another matter, io.ErrUnexpectedEOF, and \
              something was lost; right behind the length even that says io.EOF, as D7 shows. The crate gives them two names, “closed by the peer” and “closed by the peer so many bytes into a frame”, and logs at debug: a busy server would \
              write more log than acks.",
        look: "strace -f -e trace=shutdown,recvfrom target/release/examples/lab run D16",
        exercise: "Change handleConn so that a clean end is not logged as an error: errors.Is(err, io.EOF). Try both ends with nc.",
        state: State::Runs(server::d16),
    },
    Claim {
        id: "D17",
        says: "Found in the lesson's source, not said in it: an ack leaves with two writes, 4 bytes of length and 10 of packet",
        asks: "200 requests, one after the other: how many writes does the lesson's server make?",
        why: "frame.Encode writes the length with binary.Write and the rest with Write, and each is a system call when w is the socket: twice the price, and with TCP_NODELAY, which Go sets, two segments; so an ack may \
              arrive in two pieces, depending on who is faster. Put together first, it is one. And who answers a whole batch before it writes needs one write for all of them.",
        look: "strace -f -e trace=sendto target/release/examples/lab run D17 2>&1 | head -40",
        exercise: "Make one write of it in Go, with a [14]byte or with net.Buffers (writev(2)). Count with strace -c before and after.",
        state: State::Runs(server::d17),
    },
    Claim {
        id: "D18",
        says: "Found in the lesson's source, not said in it: the length in a frame is believed, whatever it is",
        asks: "Which four bytes end the lesson's server, with all its connections?",
        why: "make([]byte, totalLen-4) panics below 4, packet[0] on a body of none, pktBody[:8] on a short one: 00 00 00 00, 00 00 00 03 or 00 00 00 04 is enough, and as no goroutine recovers, the process ends for everybody. \
              7f ff ff ff reserves 2 GiB for one peer. The twin here panics at the same places. The crate compares the length with both limits, 13 and max_frame, before it keeps a \
              single further byte; the connection closes with the reason, and a frame that is long and allowed takes memory as its bytes come, not as it claims.",
        look: "strace -f -x -e trace=sendto,recvfrom,shutdown target/release/examples/lab run D18",
        exercise: "Send printf '\\0\\0\\0\\4' to the lesson's server, and to the example server. Then find the two comparisons that the lesson's Decode lacks.",
        state: State::Runs(server::d18),
    },
];
