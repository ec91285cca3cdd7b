// Fetches the page anew every few seconds, and puts its figures in the place of the old ones. Without this script the
// page reloads itself.
"use strict";

const SECONDS = 3; // with some more of what is fetched, a new call is seen within six
const PATIENCE_SECONDS = 15;
let unseen = Date.now();

function put(page) {
  const old = document.querySelector("main");
  const fresh = page.querySelector("main");
  if (!fresh || old.innerHTML === fresh.innerHTML) return;
  const regions = [...old.querySelectorAll("[role=region]")];
  const focused = regions.indexOf(document.activeElement);
  const scrolled = regions.map((region) => region.scrollLeft);
  old.replaceChildren(...fresh.childNodes);
  old.querySelectorAll("[role=region]").forEach((region, place) => {
    region.scrollLeft = scrolled[place] || 0;
    if (place === focused) region.focus({ preventScroll: true });
  });
}

async function renew() {
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(PATIENCE_SECONDS * 1000) });
    if (answer.status === 401) location.reload();
    if (!answer.ok) throw new Error(answer.statusText);
    put(new DOMParser().parseFromString(await answer.text(), "text/html"));
    unseen = Date.now();
    document.body.classList.remove("stale");
    document.getElementById("stale").textContent = "";
  } catch (error) {
    document.body.classList.add("stale");
    document.getElementById("stale").textContent =
      "No answer since " + new Date(unseen).toLocaleTimeString() + ": what is shown is old.";
  }
  setTimeout(renew, SECONDS * 1000);
}

setTimeout(renew, SECONDS * 1000);
