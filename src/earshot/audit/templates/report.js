"use strict";
(function () {
  // Tips: what data-tip says, at the pointer, or below what has the focus.
  var tip = document.getElementById("tip");
  function show(target, x, y) {
    tip.textContent = target.getAttribute("data-tip");
    tip.hidden = false;
    var box = tip.getBoundingClientRect();
    tip.style.left = Math.max(8, Math.min(x + 12, document.documentElement.clientWidth - box.width - 8)) + "px";
    tip.style.top = (y + 16 + box.height > window.innerHeight ? y - box.height - 10 : y + 16) + "px";
  }
  function hide() { tip.hidden = true; }
  document.addEventListener("pointermove", function (event) {
    var target = event.target.closest && event.target.closest("[data-tip]");
    if (target) { show(target, event.clientX, event.clientY); } else { hide(); }
  });
  document.addEventListener("focusin", function (event) {
    var target = event.target.closest && event.target.closest("[data-tip]");
    if (target) { var box = target.getBoundingClientRect(); show(target, box.left, box.bottom - 10); }
  });
  document.addEventListener("focusout", hide);
  window.addEventListener("scroll", hide, { passive: true });
})();
