// A stub for tests: as much of rclcpp as examples/ros2 uses. `spin` plays the rest of the system:
// observations come on stdin, argv[1] numbers each, what is published leaves on stdout, and `reset`
// is sent before the observation argv[2].
#ifndef AGENTKD_STUB_RCLCPP
#define AGENTKD_STUB_RCLCPP

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#define RCLCPP_ERROR(logger, ...) \
  ((void)(logger), std::fprintf(stderr, __VA_ARGS__), std::fputc('\n', stderr))

namespace rclcpp
{

struct Logger {};
struct Time {};
struct Duration {};

template<typename Message>
struct Publisher
{
  using SharedPtr = std::shared_ptr<Publisher>;
  void publish(const Message & message)
  {
    std::fwrite(message.data.data(), sizeof(float), message.data.size(), stdout);
  }
};

template<typename Message>
struct Subscription
{
  using SharedPtr = std::shared_ptr<Subscription>;
};

class Node
{
public:
  explicit Node(const std::string &) {}
  Logger get_logger() const {return {};}

  template<typename Message>
  std::shared_ptr<Publisher<Message>> create_publisher(const std::string &, int)
  {
    return std::make_shared<Publisher<Message>>();
  }

  template<typename Message>
  std::shared_ptr<Subscription<Message>> create_subscription(
    const std::string & topic, int, std::function<void(const Message &)> callback)
  {
    topics[topic] = [callback](const std::vector<float> & numbers) {
        Message message;
        message.fill(numbers);
        callback(message);
      };
    return std::make_shared<Subscription<Message>>();
  }

  std::map<std::string, std::function<void(const std::vector<float> &)>> topics;
};

inline char ** words = nullptr;

inline void init(int, char ** argv) {words = argv;}
inline void shutdown() {}

inline void spin(std::shared_ptr<Node> node)
{
  std::vector<float> numbers(std::strtoul(words[1], nullptr, 10));
  const int reset = std::atoi(words[2]);
  for (int row = 0;
    std::fread(numbers.data(), sizeof(float), numbers.size(), stdin) == numbers.size(); row++)
  {
    if (row == reset) {
      node->topics.at("reset")({});
    }
    node->topics.at("observation")(numbers);
  }
}

}  // namespace rclcpp

#endif
