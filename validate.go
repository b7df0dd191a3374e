package bearmq

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Everything a caller gives is checked here, before any SQL: PostgreSQL
// would refuse part of it much later, in the caller's transaction, and with
// an error that names a column.
const (
	maxName      = 128 // bytes, of names and channels
	maxGroup     = 512 // bytes
	maxPriority  = 100
	maxAttempts  = math.MaxInt16
	maxJSONDepth = 1000
	maxErrorText = 8 << 10 // bytes
)

// checkName is for names and channels, which are shown, logged and typed.
func checkName(field, name string) error {
	reason := ""
	switch {
	case name == "" || len(name) > maxName:
		reason = fmt.Sprintf("must have 1 to %d bytes", maxName)
	case !utf8.ValidString(name):
		reason = "must be valid UTF-8"
	case strings.ContainsFunc(name, unicode.IsControl):
		reason = "must not contain control characters"
	default:
		return nil
	}
	return &FieldError{Field: field, Value: name, Reason: reason}
}

// checkGroup shows nothing of the group: it may be made from the payload.
func checkGroup(group string) error {
	reason := ""
	switch {
	case len(group) > maxGroup:
		reason = fmt.Sprintf("must have at most %d bytes, not %d", maxGroup, len(group))
	case !utf8.ValidString(group):
		reason = "must be valid UTF-8"
	case strings.ContainsRune(group, 0):
		reason = "must not contain the character NUL, which PostgreSQL cannot store"
	default:
		return nil
	}
	return &FieldError{Field: "Group", Reason: reason}
}

func checkAttempts(n int) error {
	if n < 1 || n > maxAttempts {
		return &FieldError{Field: "Attempts", Value: n, Reason: fmt.Sprintf("must be 1 to %d", maxAttempts)}
	}
	return nil
}

func checkPriority(n int) error {
	if n < -maxPriority || n > maxPriority {
		return &FieldError{Field: "Priority", Value: n, Reason: fmt.Sprintf("must be -%d to %d", maxPriority, maxPriority)}
	}
	return nil
}

func checkDuration(field string, d time.Duration) error {
	return checkRange(field, d, 0, maxDuration, "must be 0 to ten years")
}

func checkRange(field string, d, low, high time.Duration, reason string) error {
	if d < low || d > high {
		return &FieldError{Field: field, Value: d, Reason: reason}
	}
	return nil
}

func checkRunAt(t time.Time) error {
	if year := t.UTC().Year(); year < 1970 || year > 9999 {
		return &FieldError{Field: "RunAt", Value: t, Reason: "must be in the years 1970 to 9999"}
	}
	return nil
}

func checkGroupOrder(o GroupOrder) error {
	if o != Release && o != Strict {
		return &FieldError{Field: "GroupOrder", Value: int(o), Reason: "must be Release or Strict"}
	}
	return nil
}

func checkMiddleware(middleware []Middleware) error {
	for i, mw := range middleware {
		if mw == nil {
			return &FieldError{Field: "Middleware", Value: i, Reason: "must not be nil"}
		}
	}
	return nil
}

func checkSize(field string, text []byte, limit int) error {
	if len(text) > limit {
		return &FieldError{
			Field:  field,
			Reason: fmt.Sprintf("must have at most %d bytes as JSON, not %d", limit, len(text)),
			cause:  ErrPayloadTooLarge,
		}
	}
	return nil
}

// encode makes JSON that PostgreSQL stores and gives back as it was. It
// leaves <, > and & as they are: payloads are not pages, and escaped they are
// six times as long.
func encode(field string, value any) (text []byte, err error) {
	defer func() {
		// A MarshalJSON of the caller's may panic.
		if v := recover(); v != nil {
			text, err = nil, &FieldError{Field: field, Reason: "must not panic while it is encoded", cause: &PanicError{Value: v, Stack: debug.Stack()}}
		}
	}()
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, &FieldError{Field: field, Reason: encodeProblem(err), cause: err}
	}
	text = bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	problem := ""
	switch {
	case !utf8.Valid(text): // from a json.RawMessage
		problem = "must be valid UTF-8"
	// encoding/json replaces invalid UTF-8 by this escape, silently; a U+FFFD
	// that was there before it writes as it is. So the value is searched only
	// where the escape is found, in case a json.RawMessage brought it along.
	case bytes.Contains(text, []byte(`\ufffd`)) && hasInvalidUTF8(reflect.ValueOf(value)):
		problem = "must be valid UTF-8"
	default:
		problem = storageProblem(text)
	}
	if problem != "" {
		return nil, &FieldError{Field: field, Reason: problem}
	}
	return text, nil
}

// encodeProblem says why encoding/json refused a value, without a word of the
// payload, which the texts of its errors may quote.
func encodeProblem(err error) string {
	var unsupported *json.UnsupportedTypeError
	var value *json.UnsupportedValueError
	var marshaler *json.MarshalerError
	switch {
	case errors.As(err, &marshaler):
		return fmt.Sprintf("must encode as JSON: the MarshalJSON or MarshalText of %v failed", marshaler.Type)
	case errors.As(err, &unsupported):
		return fmt.Sprintf("must encode as JSON: %v cannot", unsupported.Type)
	case errors.As(err, &value):
		return "must encode as JSON: NaN, infinities and cycles cannot"
	default:
		return "must encode as JSON"
	}
}

// checkJSON is for JSON that a caller has made.
func checkJSON(field string, text []byte) error {
	problem := ""
	switch {
	case !utf8.Valid(text):
		problem = "must be valid UTF-8"
	case !json.Valid(text):
		problem = "must be valid JSON"
	default:
		problem = storageProblem(text)
	}
	if problem != "" {
		return &FieldError{Field: field, Reason: problem}
	}
	return nil
}

// storageProblem says what of valid JSON PostgreSQL cannot hold, or "".
func storageProblem(text []byte) string {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '[', '{':
			if depth++; depth > maxJSONDepth {
				return fmt.Sprintf("must not be nested deeper than %d", maxJSONDepth)
			}
		case ']', '}':
			depth--
		case '"':
			var problem string
			if i, problem = endOfString(text, i+1); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// endOfString is the index of the quote that ends the string which begins at
// i, and what is wrong with its escapes.
func endOfString(text []byte, i int) (end int, problem string) {
	for ; text[i] != '"'; i++ {
		if text[i] != '\\' {
			continue
		}
		i++ // whatever is escaped, it does not end the string
		if text[i] != 'u' {
			continue
		}
		switch unit := codeUnit(text, i+1); {
		case unit == 0:
			return i, `must not contain the character NUL (\u0000), which PostgreSQL cannot store`
		case unit >= 0xD800 && unit < 0xDC00 && isLowSurrogate(text, i+5):
			i += 10
		case unit >= 0xD800 && unit < 0xE000:
			return i, `must not contain half of a surrogate pair (\ud800 to \udfff)`
		default:
			i += 4
		}
	}
	return i, ""
}

func isLowSurrogate(text []byte, i int) bool {
	if text[i] != '\\' || text[i+1] != 'u' {
		return false
	}
	unit := codeUnit(text, i+2)
	return unit >= 0xDC00 && unit < 0xE000
}

// codeUnit reads four hexadecimal digits, which valid JSON has there.
func codeUnit(text []byte, i int) uint64 {
	unit, _ := strconv.ParseUint(string(text[i:i+4]), 16, 16)
	return unit
}

var (
	marshalerType     = reflect.TypeFor[json.Marshaler]()
	textMarshalerType = reflect.TypeFor[encoding.TextMarshaler]()
)

// hasInvalidUTF8 searches what encoding/json has just encoded for a string
// that is not valid UTF-8. It ends because that did.
func hasInvalidUTF8(v reflect.Value) bool {
	if !v.IsValid() {
		return false
	}
	switch {
	case v.Type().Implements(marshalerType):
		return false // its output is not touched by encoding/json
	case v.Type().Implements(textMarshalerType):
		if v.Kind() == reflect.Pointer && v.IsNil() || !v.CanInterface() {
			return false
		}
		text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
		return err == nil && !utf8.Valid(text)
	}
	switch v.Kind() {
	case reflect.String:
		return !utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		return hasInvalidUTF8(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			field := v.Type().Field(i)
			hidden := !field.IsExported() && !field.Anonymous
			if !hidden && field.Tag.Get("json") != "-" && hasInvalidUTF8(v.Field(i)) {
				return true
			}
		}
	case reflect.Map:
		for entry := v.MapRange(); entry.Next(); {
			if hasInvalidUTF8(entry.Key()) || hasInvalidUTF8(entry.Value()) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return false // base64, or numbers
		}
		for i := range v.Len() {
			if hasInvalidUTF8(v.Index(i)) {
				return true
			}
		}
	}
	return false
}

// sanitize makes a text of ours or the caller's fit to be stored and shown:
// valid UTF-8 without NUL, of at most limit bytes, cut between characters and
// with a note of it.
func sanitize(text string, limit int) string {
	// Cut first: cleaning 100 MB for 8 KiB of it would be slow. Cleaning may
	// lengthen a text, as U+FFFD has three bytes, hence the second cut.
	size := len(text)
	if size > limit {
		text = text[:limit]
	}
	text = strings.ReplaceAll(text, "\x00", "")
	text = strings.ToValidUTF8(text, "\uFFFD")
	if size <= limit && len(text) <= limit {
		return text
	}
	note := fmt.Sprintf("… (%d bytes)", size)
	return cut(text, max(limit-len(note), 0)) + cut(note, limit)
}

// cut is the longest beginning of valid UTF-8 that has at most n bytes and
// ends between characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
