// Package identifier checks the IDs that clients make up: two IDs that a person cannot tell apart
// in a list must not be two payments.
package identifier

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"golang.org/x/text/width"
)

// maxBytes limits keys, indexes and log lines.
const maxBytes = 128

// Storable reports whether any version of the services could have accepted the ID: IDs that were
// stored before Check became stricter stay readable.
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
			return at(id, place, r, "a control character: remove it")
		}
	}
	return ""
}

// Check returns what is wrong with the ID of something new, and how to correct it, or "". An ID
// consists of visible characters in Unicode's composed form (NFC), with only single blanks between
// them, and contains no character that looks like another one.
func Check(id string) string {
	if wrong := unstorable(id); wrong != "" {
		return wrong
	}
	if !norm.NFC.IsNormalString(id) {
		return "is not in Unicode's composed form (NFC): write a letter and its accent as one character"
	}
	alphabets := map[string]bool{}
	onlyTwins := true // every letter so far looks like a Latin one
	previous := ' '
	for place, r := range id {
		if wrong := checkRune(r, previous); wrong != "" {
			return at(id, place, r, wrong)
		}
		if unicode.IsLetter(r) {
			name := alphabet(r)
			if name == "" {
				return at(id, place, r, "a letter of a script that is not in common use: use another script")
			}
			alphabets[name] = true
			onlyTwins = onlyTwins && strings.ContainsRune(latinTwins, r)
		}
		previous = r
	}
	switch {
	case previous == ' ':
		return "ends with a blank: remove it"
	case alphabets["Greek"] && len(alphabets) > 1, alphabets["Cyrillic"] && len(alphabets) > 1,
		alphabets["Armenian"] && len(alphabets) > 1:
		return "mixes letters of alphabets that look alike (Latin, Greek, Cyrillic, Armenian): use only one of them"
	case len(alphabets) > 0 && onlyTwins && !alphabets["Latin"]:
		return "looks like Latin letters but is not: use Latin letters"
	}
	return ""
}

func at(id string, place int, r rune, what string) string {
	return fmt.Sprintf("has %U as character %d, %s", r, utf8.RuneCountInString(id[:place])+1, what)
}

// checkRune returns what is wrong with r after previous, which is a blank at the beginning.
func checkRune(r, previous rune) string {
	switch {
	case r == ' ' && previous == ' ':
		return "an extra blank: only single blanks between other characters are allowed"
	case r < utf8.RuneSelf && unicode.IsPrint(r):
		return ""
	case !unicode.IsPrint(r), strings.ContainsRune(invisible, r),
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector):
		return "which is invisible: remove it, or use a plain blank"
	case unicode.Is(unicode.Nd, r):
		return "a digit: write 0 to 9"
	case unicode.Is(unicode.M, r) && !unicode.In(previous, unicode.L, unicode.M), unicode.In(r, unicode.Me, combining):
		return "an accent that does not combine with the letter before it: remove it"
	}
	if plain := plainForm(r); plain != "" {
		return fmt.Sprintf("which looks like another character: write %s", plain)
	}
	return ""
}

// plainForm returns the character that a reader of r would type, or "" for r itself.
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

// invisible lists characters that Unicode counts as printable but that cannot be seen, and the
// replacement character, which stands for one that was lost.
const invisible = "\u2800\U0001D159\U00016FE4\uFFFC\uFFFD"

// unlikeTheirForm lists characters that nobody confuses with their compatibility form (NFKC).
const unlikeTheirForm = "ªº²³¹¼½¾№™ำຳ"

// asciiTwins are the marks that word processors and keyboards write instead of ASCII ones. (Those
// with a compatibility form need no entry.)
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

// combining are the accents of Latin, Greek and Cyrillic letters. After composition one of them
// remains only if there is no composed letter.
var combining = &unicode.RangeTable{R16: []unicode.Range16{
	{Lo: 0x0300, Hi: 0x036F, Stride: 1}, {Lo: 0x0483, Hi: 0x0487, Stride: 1}, {Lo: 0x1AB0, Hi: 0x1AFF, Stride: 1},
	{Lo: 0x1DC0, Hi: 0x1DFF, Stride: 1}, {Lo: 0x20D0, Hi: 0x20FF, Stride: 1}, {Lo: 0xFE20, Hi: 0xFE2F, Stride: 1},
}}

// alphabets are the scripts in common use (Unicode Standard Annex 31, table 5). Historic ones are
// full of letters that look like others.
var alphabets = []string{
	"Latin", "Cyrillic", "Greek", "Armenian", "Arabic", "Bengali", "Bopomofo", "Devanagari", "Ethiopic", "Georgian",
	"Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana", "Khmer", "Lao", "Malayalam",
	"Myanmar", "Oriya", "Sinhala", "Tamil", "Telugu", "Thaana", "Thai", "Tibetan", "Common",
}

// alphabet returns the name of the script of the letter r, or "".
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
