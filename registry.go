package bearmq

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// A Registration is what a process does for a definition: run its jobs
// (Handle) or make them on schedule (Repeat, RepeatWith). It takes effect with
// [Context.Register].
type Registration struct {
	def    *definition
	bind   func(*Context) Handler // of Handle
	repeat *repeat                // of Repeat and RepeatWith
	err    error
}

// Register takes handlers and schedules, in any order and at any time: running
// workers and orchestrators take them up at once. It takes all of them or
// none. A definition has one handler and one schedule in a Context; a second
// one is an [ErrAlreadyRegistered]. An invalid definition or schedule is a
// [*FieldError].
func (mq *Context) Register(regs ...Registration) error {
	handlers := make([]*handler, 0, len(regs))
	repeats := make([]*repeat, 0, len(regs))
	for i, reg := range regs {
		if reg.def == nil {
			return &FieldError{Field: "Registration", Value: i, Reason: "must be made by Handle, Repeat or RepeatWith"}
		}
		if err := reg.def.check(mq); err != nil {
			return err
		}
		if reg.err != nil {
			return reg.def.in(reg.err)
		}
		if reg.repeat != nil {
			repeats = append(repeats, reg.repeat.limited(mq))
			continue
		}
		run := wrap(wrap(reg.bind(mq), reg.def.middleware), mq.opts.Middleware)
		if run == nil {
			return reg.def.in(&FieldError{Field: "Middleware", Reason: "must return a handler"})
		}
		handlers = append(handlers, &handler{def: reg.def, run: run})
	}
	return mq.registry.add(handlers, repeats)
}

// wrap puts middleware around a handler, the first outermost. It is nil where
// one of them returned nil.
func wrap(run Handler, middleware []Middleware) Handler {
	for _, mw := range slices.Backward(middleware) {
		if run == nil {
			return nil
		}
		run = mw(run)
	}
	return run
}

// A handler runs the jobs of one definition: decode and call, within the
// middleware of the Context and the Spec.
type handler struct {
	def *definition
	run Handler
}

// A registry is the set of a Context's registrations. It is read for every
// job and written a few times in a process's life, so a write makes a new set
// and a read takes no lock. The zero value is empty.
type registry struct {
	mu  sync.Mutex // of writers
	set atomic.Pointer[registrations]
}

// registrations never change, except that superseded is closed.
type registrations struct {
	defs       map[string]*definition
	handlers   map[string]*handler
	repeats    []*repeat
	superseded chan struct{}
}

func (r *registry) load() *registrations {
	if set := r.set.Load(); set != nil {
		return set
	}
	r.set.CompareAndSwap(nil, &registrations{superseded: make(chan struct{})})
	return r.set.Load()
}

func (r *registry) add(handlers []*handler, repeats []*repeat) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.load()
	set := &registrations{
		defs:       make(map[string]*definition, len(old.defs)),
		handlers:   make(map[string]*handler, len(old.handlers)),
		repeats:    slices.Clone(old.repeats),
		superseded: make(chan struct{}),
	}
	maps.Copy(set.defs, old.defs)
	maps.Copy(set.handlers, old.handlers)

	for _, h := range handlers {
		if _, taken := set.handlers[h.def.name]; taken {
			return fmt.Errorf("%w: definition %q has a handler", ErrAlreadyRegistered, h.def.name)
		}
		if err := set.define(h.def); err != nil {
			return err
		}
		set.handlers[h.def.name] = h
	}
	for _, rep := range repeats {
		if slices.ContainsFunc(set.repeats, func(other *repeat) bool {
			return other.def.name == rep.def.name
		}) {
			return fmt.Errorf("%w: definition %q has a schedule", ErrAlreadyRegistered, rep.def.name)
		}
		if err := set.define(rep.def); err != nil {
			return err
		}
		set.repeats = append(set.repeats, rep)
	}
	r.set.Store(set)
	close(old.superseded)
	return nil
}

// define takes a name for a definition.
func (s *registrations) define(def *definition) error {
	if other, taken := s.defs[def.name]; taken && other != def {
		return fmt.Errorf("%w: %q is the name of another definition", ErrAlreadyRegistered, def.name)
	}
	s.defs[def.name] = def
	return nil
}

// handler is nil if this process does not run such jobs.
func (r *registry) handler(name string) *handler { return r.load().handlers[name] }

// definition is nil if nothing is registered under the name.
func (r *registry) definition(name string) *definition { return r.load().defs[name] }

// names are those of the definitions that have a handler, sorted.
func (r *registry) names() []string { return slices.Sorted(maps.Keys(r.load().handlers)) }

// definitions are those that have a handler or a schedule, sorted by name.
func (r *registry) definitions() []*definition {
	defs := r.load().defs
	sorted := make([]*definition, 0, len(defs))
	for _, name := range slices.Sorted(maps.Keys(defs)) {
		sorted = append(sorted, defs[name])
	}
	return sorted
}

// schedules is in the order of registration. The slice is not the caller's to
// change.
func (r *registry) schedules() []*repeat { return r.load().repeats }

// changed is closed at the next registration. Take it before reading what it
// watches, so that nothing comes between.
func (r *registry) changed() <-chan struct{} { return r.load().superseded }
