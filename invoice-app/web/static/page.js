// The page does everything without this script. With it, paying is followed
// without loading the page anew, so that readers keep their place.
"use strict";

const pause = 1000; // between two looks, in milliseconds
const changing = ["said", "problem", "summary", "invoices"]; // ids of what is replaced
const element = (id) => document.getElementById(id);
const is = (what) => element("summary").querySelector(what) !== null;

// read returns what the server answers as a document.
async function read(path, options) {
  const response = await fetch(path, { ...options, headers: { Accept: "text/html" } });
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

// put replaces what is in an element, and gives the focus to what had it before.
function put(into, from) {
  const name = (e) => e.getAttribute("href") ?? e.getAttribute("aria-label");
  const focused = into.contains(document.activeElement) ? name(document.activeElement) : null;
  into.replaceChildren(...from.childNodes);
  if (focused !== null) {
    [...into.querySelectorAll("a, button")].find((e) => name(e) === focused)?.focus();
  }
}

// show shows another page in the place of this one.
function show(page) {
  for (const id of changing) {
    const from = page.getElementById(id);
    if (from !== null) {
      put(element(id), from);
    }
  }
  document.title = page.title || document.title;
}

let following = false;

// follow looks again and again until nothing is paid or counted any more, and
// shows then what has become of the invoices.
async function follow() {
  if (following) {
    return;
  }
  following = true;
  let paying = false;
  while (is("[data-live]")) {
    paying ||= is("progress");
    await new Promise((resolve) => setTimeout(resolve, pause));
    try {
      put(element("summary"), (await read("/summary?" + element("summary").dataset.query)).body);
    } catch {
      // The network or the service is gone for a moment: the next look will tell.
    }
  }
  following = false;
  if (paying) {
    show(await read("/?" + element("summary").dataset.query));
    if (element("problem").textContent.trim() === "") {
      const ended = document.createElement("p");
      ended.className = "notice";
      ended.textContent = "Paying has ended.";
      element("said").append(ended);
    }
  }
}

element("pay").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  try {
    show(await read(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) }));
  } catch {
    form.submit(); // and let the browser say what is wrong
  }
  follow();
});

follow();
