(() => {
  "use strict";
  const figures = JSON.parse(document.getElementById("charts").textContent);
  for (const [key, figure] of Object.entries(figures)) {
    Plotly.newPlot(`chart-${key}`, figure.data, figure.layout, { displayModeBar: false, responsive: true });
  }

  for (const card of document.querySelectorAll(".example")) {
    const audio = card.querySelector("audio");
    if (audio) follow(card, audio);
  }

  // Keeps the cursor and the marked words of a card in step with its player.
  function follow(card, audio) {
    const svg = card.querySelector("svg.utterance");
    const pane = svg.parentElement;
    const cursor = svg.querySelector(".cursor");
    const left = Number(svg.dataset.left);
    const perSecond = Number(svg.dataset.perSecond);
    const words = [...svg.querySelectorAll(".word")].map((box) => ({
      start: Number(box.dataset.start),
      end: Number(box.dataset.end),
      marks: card.querySelectorAll(`[data-word="${Number(box.dataset.word)}"]`),
    }));

    function show() {
      const now = audio.currentTime;
      const x = left + now * perSecond;
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      cursor.classList.toggle("on", now > 0);
      for (const word of words) {
        const on = now > 0 && word.start <= now && now < word.end;
        for (const mark of word.marks) mark.classList.toggle("now", on);
      }
      if (!audio.paused && (x < pane.scrollLeft || x > pane.scrollLeft + pane.clientWidth - 40)) {
        pane.scrollLeft = x - 80;
      }
    }

    function tick() {
      show();
      if (!audio.paused && !audio.ended) requestAnimationFrame(tick);
    }

    function seek(seconds) {
      audio.currentTime = Math.max(0, Math.min(seconds, audio.duration || Number(svg.dataset.seconds)));
      show();
    }

    audio.addEventListener("play", () => {
      for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
      tick();
    });
    audio.addEventListener("seeked", show);
    audio.addEventListener("ended", show);
    svg.addEventListener("click", (event) => {
      seek((event.clientX - svg.getBoundingClientRect().left - left) / perSecond);
    });
    for (const word of card.querySelectorAll(".transcript [data-start]")) {
      word.addEventListener("click", () => seek(Number(word.dataset.start) + 0.001));
    }
  }
})();
