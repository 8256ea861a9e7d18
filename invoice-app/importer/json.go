package importer

import (
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"example.com/invoices/invoice-app/invoice"
	"example.com/invoices/invoice-app/wire"
)

// openJSON reads element by element: it keeps nothing of earlier elements, and reads nothing after
// the first invalid one.
func (r *Reader) openJSON(format Format) next {
	decoder := jsontext.NewDecoder(r.text)
	begun, list := false, false
	return func() (i invoice.Invoice, line int, err error) {
		peek := func() jsontext.Kind {
			r.text.begin()
			kind := decoder.PeekKind() // reads up to the first character of the value
			line = max(r.text.line, 1)
			r.text.begin()
			return kind
		}
		kind := peek()
		over := begun && format == JSON && !list
		if !begun && format == JSON && kind == jsontext.KindBeginArray {
			_, _ = decoder.ReadToken() // cannot fail after PeekKind
			list = true
			kind = peek()
		}
		begun = true
		if list && kind == jsontext.KindEndArray {
			_, _ = decoder.ReadToken()
			kind = peek()
			over = true
		}
		r.isList = list
		switch {
		case kind == jsontext.KindInvalid:
			_, err = decoder.ReadToken()
			err = describeJSON(err)
		case over:
			err = errors.New("the JSON text is followed by something else")
		case kind == jsontext.KindBeginObject:
			i, err = r.object(decoder)
		default:
			err = fmt.Errorf("an invoice must be a JSON object, not %s", describeKind(kind))
		}
		if err != nil && !over && !errors.Is(err, io.EOF) {
			err = r.inList(r.lines.count, err)
		}
		return i, line, err
	}
}

// object reads one invoice.
func (r *Reader) object(decoder *jsontext.Decoder) (i invoice.Invoice, err error) {
	refuse := func(err error) (invoice.Invoice, error) { return i, describeJSON(err) }
	if _, err := decoder.ReadToken(); err != nil {
		return refuse(err)
	}
	text := map[string]string{} // by field
	for decoder.PeekKind() != '}' {
		key, err := decoder.ReadToken()
		if err != nil {
			return refuse(err)
		}
		name := key.String()
		field := fieldOf(name)
		if field == "" {
			r.ignore(name)
			if err := decoder.SkipValue(); err != nil {
				return refuse(err)
			}
			continue
		}
		if _, twice := text[field]; twice {
			return i, fmt.Errorf("the object has a duplicate %s", field)
		}
		kind := decoder.PeekKind()
		value, err := decoder.ReadToken()
		if err != nil {
			return refuse(err)
		}
		want := jsontext.KindString
		switch field {
		case wire.Value:
			want = jsontext.KindNumber
		case wire.IsPaid:
			want = jsontext.KindFalse
		}
		switch kind {
		case want:
			text[field] = value.String()
		case jsontext.KindNull:
			text[field] = ""
		case jsontext.KindTrue:
			if field == wire.IsPaid {
				return i, errPaid("true")
			}
			fallthrough
		default:
			return i, fmt.Errorf("%s must be %s, not %s", field, describeKind(want), describeKind(kind))
		}
	}
	if _, err := decoder.ReadToken(); err != nil {
		return refuse(err)
	}
	return invoice.New(text[wire.InvoiceID], text[wire.Value], text[wire.Currency])
}

func describeKind(kind jsontext.Kind) string {
	switch kind {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindFalse, jsontext.KindTrue:
		return "true or false"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginObject:
		return "an object"
	}
	return "a list"
}

// describeJSON describes a syntax error. It returns errors of the text's reader unchanged.
func describeJSON(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case !errors.As(err, &syntax):
		return err
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("the object has a duplicate key: %.40q", syntax.JSONPointer.LastToken())
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the text ends before the JSON does: was it cut off?")
	}
	return fmt.Errorf("this is not JSON: %w", syntax.Err)
}
