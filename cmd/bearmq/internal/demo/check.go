package demo

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bearmq/bearmq/cmd/bearmq/internal/orders"
)

// A sequence is the orders of a customer in a channel, whose order is promised.
type sequence struct {
	customer int
	channel  string
}

func (s sequence) compare(other sequence) int {
	return cmp.Or(cmp.Compare(s.customer, other.customer), cmp.Compare(s.channel, other.channel))
}

func (s sequence) String() string {
	return fmt.Sprintf("customer %d, channel %s", s.customer, s.channel)
}

// defaultChannel is that of all but express orders.
const defaultChannel = "default"

// expected is what one process without any queue makes of the orders.
type expected struct {
	balances  map[int]int64
	sequences map[sequence][]int // numbers of orders
	cents     map[int]int64      // of an order
}

func expect(all []orders.Order) expected {
	e := expected{map[int]int64{}, map[sequence][]int{}, map[int]int64{}}
	for _, o := range all {
		s := sequence{o.Customer, defaultChannel}
		if o.Express {
			s.channel = express
		}
		e.balances[o.Customer] += o.Cents
		e.sequences[s] = append(e.sequences[s], o.Number)
		e.cents[o.Number] = o.Cents
	}
	return e
}

// compare names every difference between the orders and what was booked, in
// the order of the customers.
func compare(want expected, ledger []entry, balances map[int]int64) []string {
	differences := []string{} // in JSON a list, also without any
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }

	booked := map[sequence][]int{}
	var before entry
	for _, e := range ledger {
		if e.Customer != before.Customer {
			before = entry{Customer: e.Customer}
		}
		if e.Seq != before.Seq+1 {
			differ("customer %d: booking %d follows booking %d", e.Customer, e.Seq, before.Seq)
		}
		if e.Balance != before.Balance+e.Cents {
			differ("customer %d: after order %d the balance was %s, not %s", e.Customer, e.Number, money(e.Balance), money(before.Balance+e.Cents))
		}
		if cents, known := want.cents[e.Number]; known && cents != e.Cents {
			differ("customer %d: order %d was booked with %s, not %s", e.Customer, e.Number, money(e.Cents), money(cents))
		}
		s := sequence{e.Customer, e.Channel}
		booked[s] = append(booked[s], e.Number)
		before = e
	}
	for _, s := range sortedKeys(want.sequences, booked, sequence.compare) {
		if difference := compareSequence(want.sequences[s], booked[s]); difference != "" {
			differ("%v: %s", s, difference)
		}
	}
	for _, customer := range sortedKeys(want.balances, balances, cmp.Compare[int]) {
		if balances[customer] != want.balances[customer] {
			differ("customer %d: the balance is %s, not %s", customer, money(balances[customer]), money(want.balances[customer]))
		}
	}
	return differences
}

// compareSequence names the first difference, if there is one.
func compareSequence(want, got []int) string {
	for i, number := range got {
		switch {
		case slices.Contains(got[:i], number):
			return fmt.Sprintf("order %d was booked twice", number)
		case !slices.Contains(want, number):
			return fmt.Sprintf("order %d was booked here, where it does not belong", number)
		}
	}
	for i, number := range want {
		switch {
		case !slices.Contains(got, number):
			return fmt.Sprintf("order %d was not booked", number)
		case got[i] != number:
			return fmt.Sprintf("order %d was booked before order %d", got[i], number)
		}
	}
	return ""
}

// sortedKeys are the keys of both.
func sortedKeys[K comparable, A, B any](a map[K]A, b map[K]B, compare func(K, K) int) []K {
	var keys []K
	for k := range a {
		keys = append(keys, k)
	}
	for k := range b {
		if _, both := a[k]; !both {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, compare)
	return keys
}
