// Replaces sections of the page as they change, over server-sent events, and shows times in the reader's time zone.
"use strict";

function showLocalTimes(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (isNaN(moment)) continue;
    const clock = moment.toLocaleTimeString([], { hour12: false });
    time.textContent = moment.toDateString() === today ? clock : moment.toLocaleDateString() + " " + clock;
    time.title = time.dateTime;
  }
}

function followChanges() {
  const live = document.getElementById("live");
  const unavailable = document.getElementById("unavailable");
  const source = new EventSource("events");
  source.addEventListener("open", () => { live.hidden = false; live.classList.remove("lost"); live.textContent = "live"; });
  source.addEventListener("error", () => { live.hidden = false; live.classList.add("lost"); live.textContent = "reconnecting"; });
  source.addEventListener("unavailable", () => { unavailable.hidden = false; });
  source.addEventListener("sections", (message) => {
    unavailable.hidden = true;
    for (const [name, html] of Object.entries(JSON.parse(message.data))) {
      const section = document.getElementById(name);
      // Safe: the server has escaped all values, as in the page itself.
      section.innerHTML = html;
      showLocalTimes(section);
    }
  });
  window.addEventListener("pagehide", () => source.close());
}

showLocalTimes(document);
if (document.getElementById("tiles")) followChanges();
