package demo

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/cmd/bearmq/internal/orders"
)

// few are orders of two customers, one of whom uses both channels.
func few() []orders.Order {
	return []orders.Order{
		{Number: 1, Customer: 1, Cents: 100},
		{Number: 2, Customer: 1, Cents: 200, Express: true},
		{Number: 3, Customer: 2, Cents: 300},
		{Number: 4, Customer: 1, Cents: -50},
		{Number: 5, Customer: 1, Cents: 500, Express: true},
	}
}

// book keeps the books of orders in the given order, by their numbers.
func book(numbers ...int) (ledger []entry, balances map[int]int64) {
	all, booked := few(), map[int]int{}
	balances = map[int]int64{}
	for _, n := range numbers {
		o := all[n-1]
		booked[o.Customer]++
		balances[o.Customer] += o.Cents
		channel := defaultChannel
		if o.Express {
			channel = express
		}
		ledger = append(ledger, entry{Customer: o.Customer, Seq: booked[o.Customer], Number: n, Channel: channel,
			Cents: o.Cents, Balance: balances[o.Customer], Attempt: 1})
	}
	slices.SortStableFunc(ledger, func(a, b entry) int { return a.Customer - b.Customer })
	return ledger, balances
}

func TestCompareAcceptsTheFilesOrder(t *testing.T) {
	t.Parallel()
	ledger, balances := book(1, 2, 3, 4, 5)
	require.Empty(t, compare(expect(few()), ledger, balances))
}

func TestCompareAcceptsAnyOrderAcrossChannelsAndCustomers(t *testing.T) {
	t.Parallel()
	ledger, balances := book(3, 2, 5, 1, 4)
	require.Empty(t, compare(expect(few()), ledger, balances))
}

func TestCompareNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		booked []int
		spoil  func(ledger []entry, balances map[int]int64)
		want   []string
	}{
		"overtaken": {booked: []int{4, 1, 2, 3, 5},
			want: []string{"customer 1, channel default: order 4 was booked before order 1"}},
		"overtaken in the other channel": {booked: []int{1, 5, 2, 3, 4},
			want: []string{"customer 1, channel HIGH: order 5 was booked before order 2"}},
		"lost": {booked: []int{1, 2, 3, 5},
			want: []string{"customer 1, channel default: order 4 was not booked", "customer 1: the balance is 8.00, not 7.50"}},
		"lost in the middle": {booked: []int{2, 3, 4, 5},
			want: []string{"customer 1, channel default: order 1 was not booked", "customer 1: the balance is 6.50, not 7.50"}},
		"lost with its customer": {booked: []int{1, 2, 4, 5},
			want: []string{"customer 2, channel default: order 3 was not booked", "customer 2: the balance is 0.00, not 3.00"}},
		"booked twice": {booked: []int{1, 2, 3, 4, 5, 5},
			want: []string{"customer 1, channel HIGH: order 5 was booked twice", "customer 1: the balance is 12.50, not 7.50"}},
		"another amount": {booked: []int{1, 2, 3, 4, 5},
			spoil: func(ledger []entry, _ map[int]int64) { ledger[4].Cents++; ledger[4].Balance++ },
			want:  []string{"customer 2: order 3 was booked with 3.01, not 3.00"}},
		"an update lost": {booked: []int{1, 2, 3, 4, 5},
			spoil: func(ledger []entry, balances map[int]int64) { ledger[3].Balance = 450; balances[1] = 450 },
			want: []string{"customer 1: after order 5 the balance was 4.50, not 7.50",
				"customer 1: the balance is 4.50, not 7.50"}},
		"a booking missing in between": {booked: []int{1, 2, 3, 4, 5},
			spoil: func(ledger []entry, _ map[int]int64) { ledger[3].Seq = 9 },
			want:  []string{"customer 1: booking 9 follows booking 3"}},
		"the wrong customer": {booked: []int{1, 2, 3, 4, 5},
			spoil: func(ledger []entry, _ map[int]int64) { ledger[4].Customer = 7 },
			want: []string{"customer 2, channel default: order 3 was not booked",
				"customer 7, channel default: order 3 was booked here, where it does not belong"}},
		"the wrong channel": {booked: []int{1, 2, 3, 4, 5},
			spoil: func(ledger []entry, _ map[int]int64) { ledger[0].Channel = express },
			want: []string{"customer 1, channel HIGH: order 1 was booked here, where it does not belong",
				"customer 1, channel default: order 1 was not booked"}},
		"nothing at all": {
			want: []string{"customer 1, channel HIGH: order 2 was not booked", "customer 1, channel default: order 1 was not booked",
				"customer 2, channel default: order 3 was not booked", "customer 1: the balance is 0.00, not 7.50", "customer 2: the balance is 0.00, not 3.00"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ledger, balances := book(c.booked...)
			if c.spoil != nil {
				c.spoil(ledger, balances)
			}
			require.Equal(t, c.want, compare(expect(few()), ledger, balances))
		})
	}
}
