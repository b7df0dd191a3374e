package bench

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/bearmq/bearmq"
)

// A payload is padded to the size that was asked for. I is the job's number,
// by which the check knows it, whatever the engine's ids are.
type payload struct {
	I   int    `json:"i"`
	Pad string `json:"pad"`
}

// A shape makes the jobs. All processes have the same.
type shape struct {
	PayloadBytes, Groups, Channels, Names int
}

func (o *options) shape() shape {
	s := shape{PayloadBytes: o.payloadBytes, Groups: o.groups, Channels: o.channels, Names: 1}
	if o.disjoint {
		s.Names = o.processes
	}
	return s
}

func (s shape) payload(i int) payload {
	bare := len(`{"i":,"pad":""}`) + len(strconv.Itoa(i))
	return payload{I: i, Pad: padding(i, s.PayloadBytes-bare)}
}

// json is the payload as the library stores it.
func (s shape) json(i int) []byte {
	p := s.payload(i)
	var b bytes.Buffer
	b.Grow(s.PayloadBytes)
	fmt.Fprintf(&b, `{"i":%d,"pad":"%s"}`, p.I, p.Pad)
	return b.Bytes()
}

// noise is text that PostgreSQL cannot compress: of a large payload that was
// one letter, repeated, it would store next to nothing.
var noise = func() string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	random := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, 1<<20)
	for i := range text {
		text[i] = letters[random.IntN(len(letters))]
	}
	return string(text)
}()

// padding is n bytes for job i.
func padding(i, n int) string {
	if n <= 0 {
		return ""
	}
	if n > len(noise) {
		return strings.Repeat(noise, n/len(noise)+1)[:n]
	}
	at := i * 4099 % (len(noise) - n + 1)
	return noise[at : at+n]
}

// group is the group of job i, "" for none.
func (s shape) group(i int) string {
	switch {
	case s.Groups == each:
		return strconv.Itoa(i)
	case s.Groups > 0:
		return strconv.Itoa(i % s.Groups)
	}
	return ""
}

func (s shape) channel(i int) string { return fmt.Sprintf("channel-%d", i%s.Channels) }

// definitions are those of the measured jobs: one, or one for each process.
func (s shape) definitions() []*bearmq.JobDefinition[payload] {
	defs := make([]*bearmq.JobDefinition[payload], s.Names)
	for n := range defs {
		spec := bearmq.Spec[payload]{Name: "bench"}
		if s.Names > 1 {
			spec.Name = fmt.Sprintf("bench-%d", n)
		}
		if s.Groups != 0 {
			spec.Group = func(p payload) string { return s.group(p.I) }
		}
		defs[n] = bearmq.Define(spec)
	}
	return defs
}

// plain says whether the jobs have one name and the default channel.
func (s shape) plain() bool { return s.Names == 1 && s.Channels == 1 }

// An enqueuer enqueues measured jobs.
type enqueuer struct {
	shape
	mq   *bearmq.Context
	defs []*bearmq.JobDefinition[payload]
}

func newEnqueuer(mq *bearmq.Context, s shape) *enqueuer {
	return &enqueuer{shape: s, mq: mq, defs: s.definitions()}
}

// one enqueues job i.
func (e *enqueuer) one(ctx context.Context, to bearmq.Enqueuer, i int, opts ...bearmq.EnqueueOption) error {
	if e.Channels > 1 {
		opts = append(opts, bearmq.InChannel(e.channel(i)))
	}
	_, err := e.defs[i%len(e.defs)].Enqueue(ctx, to, e.payload(i), opts...)
	return err
}

// many enqueues the jobs from lo up to hi, in one call.
func (e *enqueuer) many(ctx context.Context, lo, hi int) error {
	if e.plain() {
		payloads := make([]payload, hi-lo)
		for i := range payloads {
			payloads[i] = e.payload(lo + i)
		}
		_, err := e.defs[0].EnqueueMany(ctx, e.mq, payloads)
		return err
	}
	jobs := make([]bearmq.NewJob, hi-lo)
	for n := range jobs {
		i := lo + n
		var opts []bearmq.EnqueueOption
		if e.Channels > 1 {
			opts = append(opts, bearmq.InChannel(e.channel(i)))
		}
		jobs[n] = e.defs[i%len(e.defs)].Job(e.payload(i), opts...)
	}
	_, err := e.mq.EnqueueBatch(ctx, jobs...)
	return err
}

// probe is what the check of durability runs; backlog is what lies in front.
var (
	probe   = bearmq.Define(bearmq.Spec[int]{Name: "probe"})
	backlog = bearmq.Define(bearmq.Spec[int]{Name: "backlog", Group: func(int) string { return "backlog" }})
)
