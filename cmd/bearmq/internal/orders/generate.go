package orders

import "math/rand/v2"

// The file of the demo.
const (
	Count     = 20_000
	Customers = 500
	seed      = 20_000_500
)

// Generate makes the orders of the demo's file, the same ones each time.
func Generate() []Order {
	// Only Uint64 is used: the algorithm of PCG is fixed, that of the other
	// methods may change from one version of Go to the next.
	random := rand.NewPCG(seed, seed)
	below := func(n int) int { return int(random.Uint64() % uint64(n)) }
	all := make([]Order, Count)
	for i := range all {
		customer := below(Customers)
		if below(2) == 0 { // a few customers order often: 97 times at most
			customer = min(customer, below(Customers), below(Customers))
		}
		o := Order{
			Number:   i + 1,
			Customer: 1 + customer,
			Express:  below(10) == 0,
			Cents:    int64(199 + below(20_000)),
		}
		if below(33) == 0 {
			o.Cents = -o.Cents
		}
		all[i] = o
	}
	return all
}
