"use strict";
// Asks the server that made this page for a newer one, and shows what has changed in it. Sections
// that are as they were stay untouched, and with them how the reader has sorted their tables.
// Runs before the other scripts, which change the sections.
const EVERY = 3000; // milliseconds
const parts = (page) => [...page.querySelectorAll("main > section")];
let served = new Map(parts(document).map((part) => [part.id, part.outerHTML]));
let version = null; // of the page, by its ETag

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
      const { scrollX, scrollY } = window;
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      window.scrollTo(scrollX, scrollY);
    }
    status.textContent = `Refreshes while the run trains. Checked at ${new Date().toLocaleTimeString()}.`;
  } catch {
    status.textContent = "masktas report --watch does not answer any more: this is its last page.";
  }
}

setInterval(() => document.hidden || ask(), EVERY);
