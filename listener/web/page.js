// Sections of the page as they change, over server-sent events; and times as the reader's clock shows them.
"use strict";

function localTimes(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.dateTime);
    if (isNaN(moment)) continue;
    const clock = moment.toLocaleTimeString([], { hour12: false });
    time.textContent = moment.toDateString() === today ? clock : moment.toLocaleDateString() + " " + clock;
    time.title = time.dateTime;
  }
}

function listen() {
  const live = document.getElementById("live");
  const away = document.getElementById("away");
  const source = new EventSource("events");
  source.addEventListener("open", () => { live.hidden = false; live.classList.remove("lost"); live.textContent = "live"; });
  source.addEventListener("error", () => { live.hidden = false; live.classList.add("lost"); live.textContent = "reconnecting"; });
  source.addEventListener("away", () => { away.hidden = false; });
  source.addEventListener("sections", (message) => {
    away.hidden = true;
    for (const [name, html] of Object.entries(JSON.parse(message.data))) {
      const section = document.getElementById(name);
      // Made and escaped by the server, as the page itself.
      section.innerHTML = html;
      localTimes(section);
    }
  });
  window.addEventListener("pagehide", () => source.close());
}

localTimes(document);
if (document.getElementById("tiles")) listen();
