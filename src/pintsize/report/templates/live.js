"use strict";
// Asks the server whether the run went on, and loads the page anew if it did, where the reader was.
const state = { version: document.body.dataset.version };
setInterval(async () => {
  try {
    const answer = await fetch("version", { cache: "no-store" });
    if (answer.ok && await answer.text() !== state.version) location.reload();
  } catch {
    document.getElementById("live").textContent = "The server has stopped; this is the last state it showed.";
  }
}, 2000);
