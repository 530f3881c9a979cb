// Replaces sections of the page as they change, over server-sent events.
"use strict";

const live = document.getElementById("live");
const board = document.getElementById("board");
const unavailable = document.getElementById("unavailable");
const source = new EventSource("events");

function show(state) {
  live.hidden = false;
  live.classList.toggle("lost", state !== "live");
  live.textContent = state;
}

source.addEventListener("open", () => show("live"));
source.addEventListener("error", () => show("reconnecting"));
source.addEventListener("unavailable", (message) => {
  show("no database");
  unavailable.hidden = false;
  unavailable.textContent = JSON.parse(message.data);
  board.classList.add("stale");
});
source.addEventListener("sections", (message) => {
  show("live");
  unavailable.hidden = true;
  board.classList.remove("stale");
  document.getElementById("parts")?.remove();
  for (const [name, html] of Object.entries(JSON.parse(message.data))) {
    // Safe: the server has escaped all values, as in the page itself.
    document.getElementById(name).innerHTML = html;
  }
});
window.addEventListener("pagehide", () => source.close());
