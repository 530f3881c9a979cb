// Replaces sections of the page as they change, over server-sent events.
"use strict";

const live = document.getElementById("live");
const board = document.getElementById("board");
const unavailable = document.getElementById("unavailable");
const source = new EventSource("events");

function show(lost) {
  live.hidden = false;
  live.classList.toggle("lost", lost);
  live.textContent = lost ? "reconnecting" : "live";
}

source.addEventListener("open", () => show(false));
source.addEventListener("error", () => show(true));
source.addEventListener("unavailable", (message) => {
  unavailable.hidden = false;
  unavailable.textContent = JSON.parse(message.data);
  board.classList.add("stale");
});
source.addEventListener("sections", (message) => {
  unavailable.hidden = true;
  board.classList.remove("stale");
  document.getElementById("parts")?.remove();
  for (const [name, html] of Object.entries(JSON.parse(message.data))) {
    // Safe: the server has escaped all values, as in the page itself.
    document.getElementById(name).innerHTML = html;
  }
});
window.addEventListener("pagehide", () => source.close());
