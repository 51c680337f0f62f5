// @ts-check
import { ServerEngine } from "./engine.server.js";
import { start } from "./main.js";

start(new ServerEngine());
