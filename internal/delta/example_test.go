package delta_test

import (
	"fmt"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// Both halves of a pull, in one place. A server and an agent do the same with a
// stream between them: the Sender's responses are read from a set, and the
// Receiver's effects go to a staging.
func Example() {
	server, agent := newMemory(1), newMemory(1)
	server.commit(map[string]desired.Envelope{"greeting": envelope("hello"), "name": envelope("world")})
	agent.commit(map[string]desired.Envelope{"greeting": envelope("good evening")})
	agent.head.Epoch = desired.Epoch{2} // it has followed another server

	codec := delta.NewCodec()
	receiver := delta.NewReceiver(codec, delta.Have{Set: "s", Verified: agent.head.Revision, Salt: 1}, seedOne)
	staged := map[string]desired.Envelope{}
	for !receiver.Done() {
		sender := delta.NewSender(codec)
		open, err := receiver.Open()
		must(err)
		must(sender.Receive(open))
		for open := true; open && sender.Pending(); {
			response, err := sender.Next(server)
			must(err)
			effects, err := receiver.Handle(agent, response)
			for {
				must(err)
				for _, c := range effects.Changes {
					staged[string(c.Key)] = c.Envelope
					fmt.Printf("%s: %s\n", c.Key, c.Envelope[1:])
				}
				for _, request := range effects.Requests {
					must(sender.Receive(request))
				}
				if head := effects.Verify; head != nil {
					agent.commit(staged)
					must(receiver.Verified(agent.head.Root == head.Root))
				}
				if open = !effects.Reopen && effects.Verify == nil; !effects.More {
					break
				}
				effects, err = receiver.Continue(agent)
			}
		}
	}
	fmt.Println(receiver.Stats().Mode, receiver.Stats().Upserts)
	// Output:
	// greeting: hello
	// name: world
	// descent 2
}

// A frame is a run of changes as it travels.
func ExampleFrameWriter() {
	codec := delta.NewCodec()
	w := delta.NewFrameWriter(codec)
	must(w.Add(desired.Change{Key: []byte("etc/hosts")}))
	must(w.Add(desired.Change{Key: []byte("etc/motd"), Envelope: envelope("welcome")}))
	changes, err := codec.DecodeFrame(w.Frame())
	must(err)
	for _, c := range changes {
		fmt.Printf("%s deleted=%v\n", c.Key, c.Deleted())
	}
	// Output:
	// etc/hosts deleted=true
	// etc/motd deleted=false
}
