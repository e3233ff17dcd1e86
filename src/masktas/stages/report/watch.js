"use strict";
// Asks the server that made this page for a newer one, and shows what has changed in it. Sections
// that are as they were stay untouched. In those that are new, what the reader had opened, sorted and
// scrolled to is so again. Runs before the other scripts, which change the sections.
const EVERY = 3000; // milliseconds
const parts = (page) => [...page.querySelectorAll("main > section")];
let served = new Map(parts(document).map((part) => [part.id, part.outerHTML]));
let version = null; // of the page, by its ETag

// Opens and sorts in a new section what the reader had opened and sorted in the old one.
function restore(old, part) {
  const pairs = (selector) => {
    const those = [...part.querySelectorAll(selector)];
    return [...old.querySelectorAll(selector)].map((one, place) => [one, those[place]])
      .filter(([, now]) => now);
  };
  pairs("details").forEach(([one, now]) => { now.open = one.open; });
  pairs("th").forEach(([head, now]) => {
    const clicks = { ascending: 1, descending: 2 }[head.getAttribute("aria-sort")] ?? 0;
    for (let click = 0; click < clicks; click += 1) now.querySelector("button")?.click();
  });
}

// Returns a function that scrolls to where the reader is: to the same distance from what is first
// in the window, whatever has become of the height of all above it.
function keepPlace() {
  if (window.scrollY === 0) return () => {}; // at the start, what is new there is to be seen
  const below = (one) => one.getBoundingClientRect().bottom > 0;
  const section = parts(document).find(below);
  if (!section) return () => {};
  const inner = (one) => [...one.querySelectorAll(":scope > h2, .card > *")];
  const number = inner(section).findIndex(below), first = inner(section)[number] ?? section;
  const top = first.getBoundingClientRect().top;
  return () => {
    const now = document.getElementById(section.id);
    const there = now && (inner(now)[number] ?? now);
    if (there) window.scrollBy(0, there.getBoundingClientRect().top - top);
  };
}

function replace(page) {
  const before = new Map(parts(document).map((part) => [part.id, part]));
  const made = parts(page);
  const now = new Map(made.map((part) => [part.id, part.outerHTML]));
  const main = document.querySelector("main");
  before.forEach((old, id) => now.has(id) || old.remove());
  let place = parts(document)[0] ?? null;
  for (const part of made) {
    const old = before.get(part.id);
    const kept = old && served.get(part.id) === now.get(part.id);
    const shown = kept ? old : part;
    if (old && !kept) {
      if (place === old) place = part;
      old.replaceWith(part);
    }
    if (shown !== place) main.insertBefore(shown, place);
    place = shown.nextElementSibling;
    if (kept) continue;
    sortTables(part);
    explore(part);
    if (old) restore(old, part);
  }
  const [contents, next] = [document, page].map((one) => one.querySelector("nav"));
  contents?.remove();
  if (next) main.insertBefore(next, parts(document)[0]);
  served = now;
}

async function ask() {
  const status = document.querySelector(".live");
  try {
    const headers = version ? { "If-None-Match": version } : {};
    const answer = await fetch("/", { headers, cache: "no-store" });
    if (answer.status === 200) {
      version = answer.headers.get("ETag");
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const back = keepPlace();
      replace(page);
      back();
    }
    status.textContent = `Refreshes while the run trains. Checked at ${new Date().toLocaleTimeString()}.`;
  } catch {
    status.textContent = "masktas report --watch does not answer any more: this is its last page.";
  }
}

document.documentElement.style.overflowAnchor = "none"; // `keepPlace` does what browsers try
setInterval(() => document.hidden || ask(), EVERY);
