// Package identifier is the rule for ids that clients make up: two ids that a
// person cannot tell apart in a list must not be two payments.
package identifier

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"golang.org/x/text/width"
)

// maxBytes bounds keys, indexes and log lines.
const maxBytes = 128

// Storable reports whether an id could have been accepted by any version of the
// services: what was stored before Check became stricter stays readable.
func Storable(id string) bool { return unstorable(id) == "" }

func unstorable(id string) string {
	switch {
	case id == "":
		return "is missing"
	case len(id) > maxBytes:
		return fmt.Sprintf("is over %d bytes", maxBytes)
	case !utf8.ValidString(id):
		return "is not UTF-8"
	}
	for place, r := range id {
		if unicode.IsControl(r) {
			return at(id, place, r, "a control character: leave it out")
		}
	}
	return ""
}

// Check says what is wrong with the id of something new, and what to do about
// it, or "". An id consists of visible characters, with single blanks only
// between them, in Unicode's composed form (NFC), and of no character that looks
// like another one.
func Check(id string) string {
	if wrong := unstorable(id); wrong != "" {
		return wrong
	}
	if !norm.NFC.IsNormalString(id) {
		return "is not in Unicode's composed form (NFC): write a letter and its accent as one character"
	}
	alphabets := map[string]bool{}
	onlyTwins := true // each letter looks like a Latin one
	previous := ' '
	for place, r := range id {
		if wrong := checkRune(r, previous); wrong != "" {
			return at(id, place, r, wrong)
		}
		if unicode.IsLetter(r) {
			name := alphabet(r)
			if name == "" {
				return at(id, place, r, "a letter of a script that is not in common use: use another one")
			}
			alphabets[name] = true
			onlyTwins = onlyTwins && strings.ContainsRune(latinTwins, r)
		}
		previous = r
	}
	switch {
	case previous == ' ':
		return "ends with a blank: leave it out"
	case alphabets["Greek"] && len(alphabets) > 1, alphabets["Cyrillic"] && len(alphabets) > 1,
		alphabets["Armenian"] && len(alphabets) > 1:
		return "mixes letters of alphabets that look alike (Latin, Greek, Cyrillic, Armenian): use one of them"
	case len(alphabets) > 0 && onlyTwins && !alphabets["Latin"]:
		return "looks as if it were written in Latin letters, and is not: use Latin letters"
	}
	return ""
}

func at(id string, place int, r rune, what string) string {
	return fmt.Sprintf("has %U as character %d, %s", r, utf8.RuneCountInString(id[:place])+1, what)
}

// checkRune says what is wrong with r behind previous, which is a blank at the
// beginning.
func checkRune(r, previous rune) string {
	switch {
	case r == ' ' && previous == ' ':
		return "a blank too many: only single blanks inside are allowed"
	case r < utf8.RuneSelf && unicode.IsPrint(r):
		return ""
	case !unicode.IsPrint(r), strings.ContainsRune(invisible, r),
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector):
		return "which cannot be seen: leave it out, or use a plain blank inside"
	case unicode.Is(unicode.Nd, r):
		return "a digit: write 0 to 9"
	case unicode.Is(unicode.M, r) && !unicode.In(previous, unicode.L, unicode.M), unicode.In(r, unicode.Me, combining):
		return "an accent that does not make one character with the letter before it: leave it out"
	}
	if plain := plainForm(r); plain != "" {
		return fmt.Sprintf("which looks like another character: write %s", plain)
	}
	return ""
}

// plainForm is what somebody who reads r would type, or "" for r itself.
func plainForm(r rune) string {
	for _, group := range asciiTwins {
		if strings.ContainsRune(group.twins, r) {
			return group.plain
		}
	}
	if strings.ContainsRune(unlikeTheirForm, r) {
		return ""
	}
	self := string(r)
	for _, plain := range []string{width.Fold.String(self), norm.NFKC.String(self)} {
		if plain != self {
			return strings.TrimSpace(plain)
		}
	}
	return ""
}

// invisible characters that Unicode counts as printable, and the replacement
// character, which stands for one that was lost on the way.
const invisible = "\u2800\U0001D159\U00016FE4\uFFFC\uFFFD"

// unlikeTheirForm are characters whose compatibility form (NFKC) looks so
// different that nobody takes one for the other.
const unlikeTheirForm = "ªº²³¹¼½¾№™ำຳ"

// asciiTwins are the marks that word processors and keyboards put in place of
// those of ASCII. (Those with a compatibility form need no entry.)
var asciiTwins = []struct{ plain, twins string }{
	{`"-"`, "‐‑‒–—―⁃−➖˗"},
	{`"'"`, "‘’‚‛′‵ʹʻʼʽˈˊˋ´՚׳ꞌ"},
	{`'"'`, "“”„‟″‶ʺ״〃"},
	{`"/"`, "⁄∕⧸╱⟋"},
	{`"\"`, "∖⧵╲⟍"},
	{`"|"`, "∣ǀ│❘"},
	{`":"`, "∶ː꞉։׃˸"},
	{`"."`, "۔․"},
	{`"*"`, "∗⁎"},
	{`"~"`, "∼˜"},
	{`"_"`, "ˍ"},
	{`"<"`, "‹❮˂"},
	{`">"`, "›❯˃"},
	{`"^"`, "ˆ˄"},
	{`"!"`, "ǃ"},
}

// latinTwins are the letters of other alphabets that look like Latin ones.
const latinTwins = "АВЕЅІЈКМНОРСТУХԌԚԜҮЗаеѕіјорсухԛԝһ" +
	"ΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορυχ" +
	"ՏՍՕԼոսօհցզյ"

// combining are the accents that Latin, Greek and Cyrillic letters carry. In the
// composed form one of them is left only where no such letter exists.
var combining = &unicode.RangeTable{R16: []unicode.Range16{
	{Lo: 0x0300, Hi: 0x036F, Stride: 1}, {Lo: 0x0483, Hi: 0x0487, Stride: 1}, {Lo: 0x1AB0, Hi: 0x1AFF, Stride: 1},
	{Lo: 0x1DC0, Hi: 0x1DFF, Stride: 1}, {Lo: 0x20D0, Hi: 0x20FF, Stride: 1}, {Lo: 0xFE20, Hi: 0xFE2F, Stride: 1},
}}

// alphabets are the scripts in common use (Unicode's annex 31, table 5).
// Historic ones are full of letters that look like others.
var alphabets = []string{
	"Latin", "Cyrillic", "Greek", "Armenian", "Arabic", "Bengali", "Bopomofo", "Devanagari", "Ethiopic", "Georgian",
	"Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao", "Malayalam",
	"Myanmar", "Oriya", "Sinhala", "Tamil", "Telugu", "Thaana", "Thai", "Tibetan", "Common",
}

// alphabet is the name of the script that the letter r is from, or "".
func alphabet(r rune) string {
	if r < utf8.RuneSelf {
		return "Latin"
	}
	for _, name := range alphabets {
		if unicode.Is(unicode.Scripts[name], r) {
			return name
		}
	}
	return ""
}
