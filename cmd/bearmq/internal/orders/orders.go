// Package orders holds the orders of the demo: a file of them, and the
// generator that made it.
package orders

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
)

// An Order is what a customer pays, or gets back.
type Order struct {
	Number   int   `json:"number"` // 1 and up, in the order of the file
	Customer int   `json:"customer"`
	Express  bool  `json:"express"`
	Cents    int64 `json:"cents"` // negative for a refund
}

const (
	express  = "express"
	standard = "standard"
)

var header = []string{"order", "customer", "shipping", "cents"}

// Write writes orders as CSV with a header.
func Write(w io.Writer, all []Order) error {
	out := csv.NewWriter(w)
	if err := out.Write(header); err != nil {
		return err
	}
	for _, o := range all {
		shipping := standard
		if o.Express {
			shipping = express
		}
		if err := out.Write([]string{strconv.Itoa(o.Number), strconv.Itoa(o.Customer), shipping, strconv.FormatInt(o.Cents, 10)}); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// Read reads what Write has written.
func Read(r io.Reader) ([]Order, error) {
	in := csv.NewReader(r)
	in.FieldsPerRecord = len(header)
	in.ReuseRecord = true
	if _, err := in.Read(); err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	var all []Order
	for {
		record, err := in.Read()
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		o, err := parse(record)
		if err != nil {
			line, _ := in.FieldPos(0)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		all = append(all, o)
	}
}

func parse(record []string) (o Order, err error) {
	if o.Number, err = strconv.Atoi(record[0]); err != nil {
		return o, fmt.Errorf("order: %w", err)
	}
	if o.Customer, err = strconv.Atoi(record[1]); err != nil {
		return o, fmt.Errorf("customer: %w", err)
	}
	switch record[2] {
	case express:
		o.Express = true
	case standard:
	default:
		return o, fmt.Errorf("shipping: %q is neither %s nor %s", record[2], express, standard)
	}
	if o.Cents, err = strconv.ParseInt(record[3], 10, 64); err != nil {
		return o, fmt.Errorf("cents: %w", err)
	}
	return o, nil
}
