package identifier

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"golang.org/x/text/unicode/norm"
)

func TestCheckAccepts(t *testing.T) {
	for _, id := range []string{
		"I1", "B 1", "a/b", "A/1+2", "test-0b6e7c1e-0a4c-4a43-9d2c-5e3a5d3f8f10", "2026-11/0042",
		`R&D #7 (50%) "x" 'y' <z>_~^|\`,
		"é", "Grün 7", "Łódź", "İstanbul", "Việt 1", "Счёт 12",
		"ΤΙΜΟΛΟΓΙΟ 7", "Հաշիվ 3", "חשבון 5",
		"فاتورة 9", "फ़ाइल 3", "ใบกำกับ 1",
		"請求書 12", "せいきゅう 1", "インボイス 4", "청구서 8",
		"INV 請求 5", "№ 5", "Nº 7", "½ share", "€ 7", "😀 1", "§ 4", "INV-ใบ-2",
		strings.Repeat("X", maxBytes),
	} {
		assert.Empty(t, Check(norm.NFC.String(id)), "%q", id)
	}
}

// A person would take each of these for another ID, or would not see it.
func TestCheckRejects(t *testing.T) {
	for name, id := range map[string]string{
		"empty":                              "",
		"too long":                           strings.Repeat("X", maxBytes+1),
		"not UTF-8":                          "B\xff1",
		"half a surrogate":                   "B\xed\xa0\x801",
		"NUL":                                "B\x001",
		"line feed":                          "B1\n",
		"tab":                                "B\t1",
		"delete":                             "B\x7f1",
		"next line":                          "B\u00851",
		"blank":                              " ",
		"blank before":                       " B1",
		"blank after":                        "B1 ",
		"two blanks":                         "B  1",
		"no-break space":                     "\u00a0B1",
		"no-break space inside":              "B\u00a01",
		"narrow no-break space":              "B\u202f1",
		"em space":                           "B\u20031",
		"thin space":                         "B\u20091",
		"ideographic space":                  "B\u30001",
		"ogham space":                        "B\u16801",
		"mathematical space":                 "B\u205f1",
		"zero width space":                   "B\u200b1",
		"zero width joiner":                  "B\u200d1",
		"zero width non-joiner":              "B\u200c1",
		"word joiner":                        "B\u20601",
		"byte-order mark":                    "\ufeffB1",
		"soft hyphen":                        "B\u00ad1",
		"right-to-left mark":                 "B1\u200f",
		"left-to-right mark":                 "\u200eB1",
		"right-to-left override":             "\u202e1B",
		"isolate":                            "\u2067B1\u2069",
		"Arabic letter mark":                 "B\u061c1",
		"Mongolian vowel separator":          "B\u180e1",
		"Mongolian variation selector":       "B\u180b1",
		"variation selector":                 "B1\ufe0f",
		"variation selector 17":              "B1\U000e0100",
		"tag":                                "B1\U000e0031",
		"language tag":                       "\U000e0001B1",
		"combining grapheme joiner":          "B\u034f1",
		"Hangul filler":                      "B\u31641",
		"Hangul choseong filler":             "B\u115f1",
		"Hangul jungseong filler":            "B\u11601",
		"half-width Hangul filler":           "B\uffa01",
		"Khmer inherent vowel":               "B\u17b41",
		"braille blank":                      "B\u28001",
		"null notehead":                      "B\U0001d1591",
		"musical beam":                       "B\U0001d1731",
		"shorthand format":                   "B\U0001bca01",
		"invisible times":                    "B\u20621",
		"interlinear anchor":                 "B\ufff91",
		"object replacement":                 "B\ufffc1",
		"lost in decoding":                   "B\ufffd1",
		"line separator":                     "B\u20281",
		"paragraph separator":                "B\u20291",
		"private use":                        "B\ue0001",
		"private use, plane 16":              "B\U0010fffd1",
		"unassigned":                         "B\u03781",
		"no character":                       "B\uffff1",
		"ZWJ emoji":                          "👩\u200d💻",
		"emoji with selector":                "❤\ufe0f",
		"decomposed":                         "cafe\u0301",
		"singleton":                          "\u212b1",
		"Hangul in parts":                    "\u1100\u1161",
		"marks in another order":             "e\u0301\u0323",
		"accent alone":                       "\u0301",
		"accent behind a digit":              "1\u0301",
		"accent behind a blank":              "B \u0301",
		"overlay":                            "o\u0338",
		"keycap":                             "1\u20e3",
		"dot on a dotted letter":             "i\u0307",
		"accent without a letter of its own": "m\u0301",
		"full-width":                         "\uff22\uff11",
		"full-width digit":                   "B\uff11",
		"half-width katakana":                "\uff71",
		"ligature":                           "\ufb01x",
		"bold":                               "\U0001d4011",
		"circled":                            "\u2460",
		"superscript letter":                 "B\u2071",
		"Roman numeral":                      "\u2160",
		"long s":                             "\u017f1",
		"micro sign":                         "\u00b51",
		"Arabic digit":                       "B\u0661",
		"Persian digit":                      "B\u06f1",
		"Devanagari digit":                   "B\u0967",
		"NKo digit":                          "B\u07c1",
		"en dash":                            "B–1",
		"em dash":                            "B—1",
		"hyphen":                             "B\u20101",
		"non-breaking hyphen":                "B\u20111",
		"minus":                              "B−1",
		"curly apostrophe":                   "B’1",
		"curly quotes":                       "“B1”",
		"prime":                              "B′1",
		"fraction slash":                     "B⁄1",
		"ratio":                              "B∶1",
		"one dot leader":                     "B\u20241",
		"ellipsis":                           "B\u20261",
		"click letter":                       "B\u01c31",
		"Greek question mark":                "B\u037e1",
		"Cyrillic for Latin":                 "\u04121",
		"Cyrillic among Latin":               "INV\u041e1",
		"Greek for Latin":                    "\u0391\u03921",
		"Greek among Latin":                  "Inv\u03bfice",
		"Cyrillic among Greek":               "ΤΙМΟ",
		"Armenian for Latin":                 "\u0555\u0555",
		"Cherokee":                           "\u13f4\u13aa",
		"Lisu":                               "\ua4d0",
		"Coptic":                             "\u2c9e",
		"Deseret":                            "\U00010404",
	} {
		wrong := Check(id)
		assert.NotEmpty(t, wrong, "%s: %+q", name, id)
		for _, r := range wrong {
			assert.True(t, unicode.IsPrint(r), "%s: the error is fit to be shown: %q", name, wrong)
		}
	}
}

func TestErrorsSayWhereAndWhatToDo(t *testing.T) {
	for id, want := range map[string]string{
		"B1 ":        `ends with a blank: remove it`,
		"ü\u200b1":   `has U+200B as character 2, which is invisible: remove it, or use a plain blank`,
		"INV–1":      `has U+2013 as character 4, which looks like another character: write "-"`,
		"\uff22":     `has U+FF22 as character 1, which looks like another character: write B`,
		"INV\u041e":  `mixes letters of alphabets that look alike (Latin, Greek, Cyrillic, Armenian): use only one of them`,
		"cafe\u0301": `is not in Unicode's composed form (NFC): write a letter and its accent as one character`,
		"1\u0301": `has U+0301 as character 2, an accent that does not combine with the letter before it: ` +
			`remove it`,
	} {
		assert.Equal(t, want, Check(id))
	}
}

func TestStoredIDsStayReadable(t *testing.T) {
	for _, id := range []string{" B1", "B1 ", "B\u200b1", "cafe\u0301", "B\u00a01", "\uff22"} {
		assert.True(t, Storable(id), "%+q", id)
	}
	for _, id := range []string{"", "B\x001", "B\n", "B\xff", strings.Repeat("X", maxBytes+1)} {
		assert.False(t, Storable(id), "%+q", id)
	}
}

// An accepted ID is its own normal form, and looks like what it is.
func FuzzCheck(f *testing.F) {
	for _, id := range []string{"I1", "cafe\u0301", "B\u200b1", "Счёт 12", "請求書"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if Check(id) != "" {
			return
		}
		assert.True(t, Storable(id))
		assert.Equal(t, id, norm.NFC.String(id))
		assert.Equal(t, id, strings.Join(strings.Fields(id), " "))
		for _, r := range id {
			assert.True(t, unicode.IsPrint(r))
		}
	})
}
