package orders

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGenerateMakesTheCommittedFileByteForByte(t *testing.T) {
	t.Parallel()
	committed, err := os.ReadFile("../../../../testdata/orders.csv")
	require.NoError(t, err)
	var made bytes.Buffer
	require.NoError(t, Write(&made, Generate()))
	require.True(t, bytes.Equal(committed, made.Bytes()), "testdata/orders.csv is not what the generator makes: run make data")
}

func TestGenerateMakesOrdersOfAllKinds(t *testing.T) {
	t.Parallel()
	customers := map[int]int{}
	express, refunds := 0, 0
	for i, o := range Generate() {
		require.Equal(t, i+1, o.Number)
		require.NotZero(t, o.Cents)
		customers[o.Customer]++
		if o.Express {
			express++
		}
		if o.Cents < 0 {
			refunds++
		}
	}
	require.Len(t, customers, Customers)
	require.InDelta(t, Count/10, express, Count/50)
	require.InDelta(t, Count/33, refunds, Count/100)
}

func TestReadGivesWhatWasWritten(t *testing.T) {
	t.Parallel()
	all := []Order{{1, 7, false, 199}, {2, 500, true, -12}}
	var b bytes.Buffer
	require.NoError(t, Write(&b, all))
	read, err := Read(&b)
	require.NoError(t, err)
	require.Equal(t, all, read)
}

func TestReadNamesTheLineThatIsWrong(t *testing.T) {
	t.Parallel()
	head := "order,customer,shipping,cents\n1,1,standard,5\n"
	for name, c := range map[string]struct{ text, want string }{
		"nothing":  {"", "header"},
		"order":    {head + "x,1,standard,5\n", "line 3: order"},
		"customer": {head + "2,x,standard,5\n", "line 3: customer"},
		"shipping": {head + "2,1,slow,5\n", `line 3: shipping: "slow"`},
		"cents":    {head + "2,1,express,5.0\n", "line 3: cents"},
		"fields":   {head + "2,1,express\n", "line 3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Read(strings.NewReader(c.text))
			require.ErrorContains(t, err, c.want)
		})
	}
}
