// Fetches the page anew every few seconds, and puts its figures in the place of the old ones. Without this script the
// page reloads itself.
"use strict";

const SECONDS = 3; // with some more of what is fetched, a new call is seen within six
const PATIENCE_SECONDS = 15;
let unseen = Date.now();

// What an element is known by among its siblings: a row of the same agent is the same row, wherever it stands now.
function name(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.nodeName + " " + (node.dataset.key || "") : node.nodeName;
}

function patchChildren(old, fresh) {
  const known = new Map();
  for (const child of old.childNodes) known.set(name(child), [...(known.get(name(child)) || []), child]);
  const wanted = [...fresh.childNodes].map((child) => [(known.get(name(child)) || []).shift(), child]);
  for (const left of known.values()) left.forEach((child) => child.remove());
  let place = old.firstChild;
  for (const [same, child] of wanted) {
    if (same) patch(same, child);
    if (same && same === place) place = place.nextSibling;
    else old.insertBefore(same || child, place);
  }
}

function patch(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  patchChildren(old, fresh);
}

// Nodes stay the same where they can, so that nobody loses their place: neither who goes by keys, nor who copies a text.
function put(page) {
  const old = document.querySelector("main");
  const fresh = page.querySelector("main");
  if (!fresh || old.innerHTML === fresh.innerHTML) return;
  const focused = document.activeElement;
  const { anchorNode, anchorOffset, focusNode, focusOffset, isCollapsed } = getSelection();
  patchChildren(old, fresh);
  // A row that was moved has lost them all the same, and a text that has changed its end of a selection.
  if (document.activeElement !== focused && focused.isConnected) focused.focus({ preventScroll: true });
  const selection = getSelection();
  if (isCollapsed || !anchorNode.isConnected || !focusNode.isConnected) return;
  const ends = [anchorNode, upTo(anchorNode, anchorOffset), focusNode, upTo(focusNode, focusOffset)];
  const now = [selection.anchorNode, selection.anchorOffset, selection.focusNode, selection.focusOffset];
  if (ends.some((end, place) => end !== now[place])) selection.setBaseAndExtent(...ends);
}

function upTo(node, offset) {
  return Math.min(offset, node.nodeType === Node.ELEMENT_NODE ? node.childNodes.length : node.length);
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
