// A stub for tests: the plugin can be made by a function.
#ifndef AGENTKD_STUB_CLASS_LIST_MACROS
#define AGENTKD_STUB_CLASS_LIST_MACROS

#define PLUGINLIB_EXPORT_CLASS(type, base) \
  base * make_plugin(); \
  base * make_plugin() {return new type();}

#endif
