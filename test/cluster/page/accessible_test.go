package page

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// scheme makes the browser prefer light or dark pages.
func scheme(name string) chromedp.Action {
	return emulation.SetEmulatedMedia().WithFeatures(
		[]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}})
}

// contrasts lists texts whose contrast with their background is too low for WCAG
// 2.2, level AA (4.5, or 3 for large text), and controls whose border has a
// contrast of less than 3.
const contrasts = `(() => {
	const channel = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
	const numbers = (color) => color.match(/[\d.]+/g).map(Number);
	const luminance = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
	const ratio = (a, b) => {
		const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
		return (high + 0.05) / (low + 0.05);
	};
	const behind = (e) => {
		for (; e !== null; e = e.parentElement) {
			const color = numbers(getComputedStyle(e).backgroundColor);
			if (color.length === 3 || color[3] === 1) {
				return color;
			}
		}
		return [255, 255, 255];
	};
	const found = { checked: 0, low: [] };
	for (const e of document.body.querySelectorAll("*")) {
		const style = getComputedStyle(e);
		const direct = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim() !== "");
		if (direct && e.getClientRects().length > 0) {
			const size = parseFloat(style.fontSize);
			const large = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700;
			const is = ratio(numbers(style.color), behind(e));
			found.checked++;
			if (is < (large ? 3 : 4.5)) {
				found.low.push(e.localName + " " + e.textContent.trim().slice(0, 40) + ": " + is.toFixed(2));
			}
		}
		if (e.matches("button, input[type=search]")) {
			const is = ratio(numbers(style.borderTopColor), behind(e.parentElement));
			found.checked++;
			if (is < 3) {
				found.low.push("border of " + e.localName + ": " + is.toFixed(2));
			}
		}
	}
	return JSON.stringify(found);
})()`

// requireAccessible checks the page's accessibility tree, as used by screen
// readers, and its visual accessibility.
func (b browser) requireAccessible(what string) {
	b.Helper()
	type value struct {
		Value any `json:"value"`
	}
	var tree struct { // only the required fields: cdproto's types reject values newer than themselves
		Nodes []struct {
			Ignored    bool  `json:"ignored"`
			Role       value `json:"role"`
			Name       value `json:"name"`
			Properties []struct {
				Name  string `json:"name"`
				Value value  `json:"value"`
			} `json:"properties"`
		} `json:"nodes"`
	}
	b.run(chromedp.ActionFunc(func(ctx context.Context) error {
		return cdp.Execute(ctx, accessibility.CommandGetFullAXTree, nil, &tree)
	}))
	count := map[string]int{}
	level := 0.0
	for _, node := range tree.Nodes {
		if node.Ignored {
			continue
		}
		role, name := fmt.Sprint(node.Role.Value), node.Name.Value
		count[role]++
		switch role {
		case "button", "link", "checkbox", "searchbox", "textbox", "progressbar",
			"navigation", "region", "columnheader", "rowheader", "RootWebArea", "heading":
			assert.NotEmpty(b, name, "%s: %s without a name", what, role)
		}
		if role == "heading" {
			for _, property := range node.Properties {
				if now, isLevel := property.Value.Value.(float64); isLevel && property.Name == "level" {
					assert.LessOrEqual(b, now, level+1, "%s: the heading %q skips a level", what, name)
					level = now
				}
			}
		}
	}
	assert.Equal(b, 1, count["main"], what)
	assert.Equal(b, 1, count["banner"], what)
	assert.Equal(b, 1, count["search"], what)
	assert.Equal(b, 1, count["status"], what)
	assert.GreaterOrEqual(b, count["heading"], 4, what)
	assert.GreaterOrEqual(b, count["button"], 3, what)

	assert.Equal(b, "en", b.evaluate("document.documentElement.lang"))
	assert.Equal(b, "0", b.evaluate("[...document.querySelectorAll('[id]')].length - "+
		"new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size"), "duplicate ids")
	assert.Empty(b, b.evaluate(`[...document.querySelectorAll("[aria-labelledby], [aria-describedby]")]
		.flatMap((e) => [e.getAttribute("aria-labelledby"), e.getAttribute("aria-describedby")])
		.filter((id) => id !== null && document.getElementById(id) === null).join()`), "references to missing ids")
	for _, name := range []string{"light", "dark"} {
		b.run(scheme(name))
		var found struct {
			Checked int
			Low     []string
		}
		require.NoError(b, json.Unmarshal([]byte(b.evaluate(contrasts)), &found))
		assert.Empty(b, found.Low, "%s, %s: contrast is too low", what, name)
		assert.Greater(b, found.Checked, 20)
	}
	b.run(emulation.SetDeviceMetricsOverride(320, 640, 1, false))
	assert.Equal(b, "320", b.evaluate("document.documentElement.scrollWidth"),
		"%s: a narrow or magnified page must not scroll sideways", what)
	assert.Empty(b, b.evaluate(`[...document.querySelectorAll("button, nav a, input")].filter((e) => {
		const box = e.getBoundingClientRect();
		return box.width > 0 && box.height < 24 && e.type !== "checkbox";
	}).map((e) => e.outerHTML).join()`), "%s: target is too small", what)
	b.run(emulation.ClearDeviceMetricsOverride())
}

func TestAccessible(t *testing.T) {
	provider := newRejectable(t)
	url := startInvoiceApp(t, "SQLite", provider.url,
		"PAY_CONCURRENCY=1", "PAYMENT_TIMEOUT=30s", "CLAIM_LEASE=60s", "PAY_PATIENCE=10m")
	b := open(t, url)
	b.requireAccessible("empty")
	add(t, url, "I1,12.15,EUR", "bad,10.25,GBP", "I3,66.13,DKK")
	b.run(chromedp.Navigate(url))
	b.requireAccessible("unpaid")
	b.run(chromedp.Click("#pay button"))
	b.await("#summary label", contains("Paying"))
	b.requireAccessible("paying")
	close(provider.gate)
	b.await("#said", contains("Paying has ended."))
	b.requireAccessible("paid")
	b.run(chromedp.Navigate(url + "/?show=rejected"))
	b.requireAccessible("rejected")
	b.run(chromedp.Navigate(url + "/?id=none"))
	b.requireAccessible("not found")

	file := filepath.Join(t.TempDir(), "invoices.csv")
	require.NoError(t, os.WriteFile(file, []byte("InvoiceId,Value,Currency\nI1,x,EUR\n"), 0o600))
	b.run(chromedp.SetUploadFiles("#file", []string{file}), chromedp.Click("//button[.='Import']"))
	b.await("#wrong", contains("line 2"))
	b.requireAccessible("wrong line")
}

// The page follows the preferred color scheme. The documentation has screenshots
// of both.
func TestLightAndDark(t *testing.T) {
	provider := newRejectable(t)
	close(provider.gate)
	url := startInvoiceApp(t, "SQLite", provider.url)
	add(t, url, "I1,12.15,EUR", "I2,10.25,GBP", "I3,66.13,DKK", "2026-bad,1250,EUR")
	b := open(t, url)
	b.run(chromedp.Click("#pay button"))
	b.await("#summary .tabs", contains("Paid 3"))
	add(t, url, "2026-118,310.5,EUR", "2026-119,98000,JPY")
	for name, bright := range map[string]bool{"light": true, "dark": false} {
		b.run(scheme(name), emulation.SetDeviceMetricsOverride(820, 860, 1, false), chromedp.Navigate(url))
		var picture []byte
		b.run(chromedp.CaptureScreenshot(&picture))
		decoded, err := png.Decode(bytes.NewReader(picture))
		require.NoError(t, err)
		red, green, blue, _ := decoded.At(2, 2).RGBA() // of 0xffff
		assert.Equal(t, bright, (red+green+blue)/3 > 0x8000, "%s: %x %x %x", name, red, green, blue)
		if *screenshots != "" {
			require.NoError(t, os.WriteFile(filepath.Join(*screenshots, fmt.Sprintf("invoices-%s.png", name)), picture, 0o600))
		}
	}
}
