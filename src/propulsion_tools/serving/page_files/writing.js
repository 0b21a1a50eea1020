// Texts that come token by token, and the conversations that they are part of.
import { events } from "./api.js";
import { el } from "./dom.js";
import { count, rate } from "./words.js";

// What one adapter has written and been told.
export class Paper {
  constructor(name, mode) {
    Object.assign(this, { name, mode });
    this.turns = [];
    this.last = "";
    this.node = el("div", { class: mode === "chat" ? "chat" : "goes-on" });
  }

  // Write on, and give what is to be said of it.
  async write(model, asked, wishes, signal) {
    const written = this.begin(model, asked);
    const begun = performance.now();
    let usage = null;
    let finish = null;
    try {
      for await (const event of events(...this.request(model, asked, wishes), signal)) {
        usage = event.usage ?? usage;
        const [choice] = event.choices;
        if (!choice) continue;
        finish = choice.finish_reason ?? finish;
        written.append(choice.delta?.content ?? choice.text ?? "");
      }
    } finally {
      this.end(model, asked, written);
    }
    return told(usage, finish, (performance.now() - begun) / 1000);
  }

  // Without a chat template an adapter sees the last message alone, and so do those who read.
  begin(model, asked) {
    const written = el("span", { class: "written" });
    if (!model.chat_template) this.node.replaceChildren();
    if (this.mode === "chat") this.node.append(el("p", { class: "turn user" }, asked), el("p", { class: "turn" }, written));
    else this.node.replaceChildren(el("p", { class: "turn" }, el("span", { class: "faint" }, asked), written));
    return written;
  }

  end(model, asked, written) {
    const answer = (this.last = written.textContent);
    if (this.mode !== "chat") return;
    if (!answer) written.parentElement.remove();
    if (answer && model.chat_template) this.turns.push({ role: "user", content: asked }, { role: "assistant", content: answer });
  }

  request(model, asked, { most, temperature }) {
    const shared = { model: model.id, max_tokens: most, temperature, stream: true, stream_options: { include_usage: true } };
    if (this.mode === "text") return ["v1/completions", { ...shared, prompt: asked }];
    return ["v1/chat/completions", { ...shared, messages: [...this.turns, { role: "user", content: asked }] }];
  }
}

function told(usage, finish, seconds) {
  const tokens = usage?.completion_tokens ?? 0;
  const speed = tokens > 1 ? `, ${rate(tokens / seconds)} a second` : "";
  return `${count(tokens, "token")}${speed}${finish === "length" ? ", cut at the limit" : ""}`;
}
